//! Whether there is room in the home for another task.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, Statvfs, statvfs};

/// Of the file system, or so much of it: what is less.
const LEAST_SHARE: u64 = 20;
const LEAST_BYTES: u64 = 512 << 20;
const LEAST_FILES: u64 = 20_000;

/// Why nothing new is to start: the file system that this is in is nearly full, or cannot be asked.
pub fn obstacle(home: &Path) -> Option<String> {
    match statvfs(home) {
        Ok(found) => obstacle_of(&Room::of(&found)).map(|why| format!("the disk is nearly full: {why}")),
        Err(error) => Some(format!("the free space of the home cannot be told: {error}")),
    }
}

/// Says so where no file below this can be executed.
pub fn warn_of_noexec(home: &Path) {
    if statvfs(home).is_ok_and(|found| found.flags().contains(FsFlags::ST_NOEXEC)) {
        log::warn!(path:% = home.display();
            "the home is on a file system that is mounted noexec: commands of packages that are files of theirs cannot \
             be executed, only those of the system");
    }
}

struct Room {
    bytes: u64,
    free_bytes: u64,
    /// 0 where the file system does not count them.
    files: u64,
    free_files: u64,
}

impl Room {
    fn of(found: &Statvfs) -> Room {
        Room {
            bytes: found.blocks().saturating_mul(found.fragment_size()),
            free_bytes: found.blocks_available().saturating_mul(found.fragment_size()),
            files: found.files(),
            free_files: found.files_available(),
        }
    }
}

fn obstacle_of(room: &Room) -> Option<String> {
    let least_bytes = (room.bytes / LEAST_SHARE).min(LEAST_BYTES);
    let least_files = (room.files / LEAST_SHARE).min(LEAST_FILES);
    if room.free_bytes < least_bytes {
        let mib = |bytes: u64| bytes >> 20;
        Some(format!("{} MiB are free, and {} are needed", mib(room.free_bytes), mib(least_bytes)))
    } else if room.free_files < least_files {
        Some(format!("{} files can be made, and {least_files} are needed", room.free_files))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_is_nearly_full_by_its_size_and_by_its_files() {
        let at = |bytes, free_bytes, files, free_files| {
            obstacle_of(&Room { bytes, free_bytes, files, free_files }).unwrap_or_default()
        };
        assert_eq!(at(1000 * GIB, GIB, 1_000_000, 500_000), "");
        assert_eq!(at(1000 * GIB, GIB / 4, 1_000_000, 500_000), "256 MiB are free, and 512 are needed");
        // A small one, that is 512 MiB as a whole.
        assert_eq!(at(GIB / 2, GIB / 8, 1_000, 500), "");
        assert_eq!(at(GIB / 2, 20 << 20, 1_000, 500), "20 MiB are free, and 25 are needed");
        assert_eq!(at(GIB, GIB, 1_000_000, 19_999), "19999 files can be made, and 20000 are needed");
        assert_eq!(at(GIB, GIB, 1_000, 49), "49 files can be made, and 50 are needed");
        // A file system that has no fixed number of them.
        assert_eq!(at(GIB, GIB, 0, 0), "");
    }

    #[test]
    fn a_home_that_is_not_there_is_an_obstacle() {
        assert!(obstacle(Path::new("/nowhere/at/all")).unwrap().contains("cannot be told"));
    }
}
