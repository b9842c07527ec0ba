//! Which cgroup was delegated to this process.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// What systemd marks a cgroup with that it leaves to who is in it. To be its owner says less: of the cgroups of a user's
/// session that user owns all.
const MARK: &str = "user.delegate";

/// # Errors
/// Why there is none.
pub fn delegated() -> Result<PathBuf, &'static str> {
    let none = "no cgroup is delegated to this process";
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own = own(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")).ok_or(none)?;
    // A process that took it over is below it.
    let directory = match own.ends_with(super::SERVER) {
        true => own.parent().unwrap_or(&own).to_owned(),
        false => own,
    };
    let mut mark = [0; 1];
    let is_marked = rustix::fs::getxattr(&directory, MARK, &mut mark) == Ok(1) && mark == *b"1";
    if !is_marked || access(&directory, AccessFlags::W_OK).is_err() {
        Err(none)
    } else if !directory.join("cgroup.kill").exists() {
        Err("it cannot be used before Linux 5.14")
    } else {
        Ok(directory)
    }
}

/// The directory of the cgroup that a process is in, by what the kernel says of it and of what is mounted.
fn own(cgroup: &str, mounts: &str) -> Option<PathBuf> {
    let path = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (mount, _) = line.split_once(" - cgroup2 ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        Some(Path::new(at).join(path.strip_prefix(root).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "0::/system.slice/cloacinactl.service\n";

    #[test]
    fn the_own_cgroup_is_found_where_it_is_mounted() {
        let mounted = |root: &str, at: &str| {
            format!(
                "22 1 0:20 / /sys rw shared:6 - sysfs sysfs rw\n\
                 30 22 0:26 {root} {at} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
            )
        };
        let unified = mounted("/", "/sys/fs/cgroup");
        let of = |cgroup: &str, mounts: &str| own(cgroup, mounts).map(|path| path.display().to_string());
        let found = |path: &str| Some(path.to_owned());
        assert_eq!(of(UNIT, &unified), found("/sys/fs/cgroup/system.slice/cloacinactl.service"));
        assert_eq!(of("0::/\n", &unified), found("/sys/fs/cgroup/"));
        // A part of it alone, as in some containers; version 1 beside it; version 1 alone.
        assert_eq!(of(UNIT, &mounted("/system.slice", "/c")), found("/c/cloacinactl.service"));
        assert_eq!(of(UNIT, &mounted("/user.slice", "/c")), None);
        let both = format!("5:pids:/a\n1:name=systemd:/b\n{UNIT}");
        let unified = mounted("/", "/sys/fs/cgroup/unified");
        assert_eq!(of(&both, &unified), found("/sys/fs/cgroup/unified/system.slice/cloacinactl.service"));
        assert_eq!(of("5:pids:/a\n", &unified), None);
        assert_eq!(of(UNIT, "22 1 0:20 / /sys rw - sysfs sysfs rw\n"), None);
        assert_eq!(of("", ""), None);
    }
}
