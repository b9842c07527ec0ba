//! Landlock: which files a task reads, executes and writes, and that its signals reach its own processes alone.

use std::error::Error as _;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::SandboxError;
use crate::terminal::shown;

/// What `required` needs: signals and abstract sockets are scoped from here on, Linux 6.12.
pub const NEEDED_ABI: ABI = ABI::V6;

/// The system's programs, libraries and settings, and what the kernel tells about processes.
const SYSTEM: [&str; 11] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/etc", "/proc"];

/// Settings that are often links to a file elsewhere, such as below /run.
const LINKED_SETTINGS: [&str; 2] = ["/etc/resolv.conf", "/etc/localtime"];

/// Devices that hold nothing and change nothing. /dev/fd, /dev/stdin and their like are links into /proc/self.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// How much of what was asked for is in force.
pub struct Level {
    /// What the kernel answered where Landlock is not there or refuses.
    abi: Result<ABI, SandboxError>,
    is_whole: bool,
}

impl Level {
    /// # Errors
    /// Something of it is missing.
    pub fn expect_whole(self) -> Result<Level, SandboxError> {
        match self.abi {
            Ok(abi) if abi < NEEDED_ABI || !self.is_whole => {
                Err(SandboxError::OldLandlock { abi, open: open_before(abi) })
            }
            Ok(_) => Ok(self),
            Err(error) => Err(error),
        }
    }

    /// What stays open of what Landlock should close.
    pub fn open(&self) -> Vec<&'static str> {
        match self.abi {
            Ok(abi) => open_before(abi),
            Err(_) => vec![
                "reading and writing every file that its user may read and write, also those of the server and of other \
                 tasks",
                "memory and environment of the processes of its user, also the server's",
                SIGNALS,
            ],
        }
    }

    pub fn scopes_signals(&self) -> bool {
        self.abi.as_ref().is_ok_and(|abi| *abi >= ABI::V6)
    }

    pub fn closes_files(&self) -> bool {
        self.abi.is_ok()
    }
}

const IOCTL: &str = "ioctl on the devices below the paths that it was given (before Linux 6.10)";

const SIGNALS: &str = "signals to the processes of its user, also the server's (before Linux 6.12)";

fn open_before(abi: ABI) -> Vec<&'static str> {
    let mut open = Vec::new();
    if abi < ABI::V3 {
        open.push("truncating files of its user (before Linux 6.2)");
    }
    if abi < ABI::V5 {
        open.push(IOCTL);
    }
    if abi < ABI::V6 {
        open.push(SIGNALS);
    }
    open
}

/// Puts it in force for this thread and what it starts, as far as the kernel goes.
///
/// # Errors
/// A path is not there.
pub fn restrict(readable: &[PathBuf], writable: &[PathBuf]) -> Result<Level, SandboxError> {
    Errno::clear();
    let ruleset = Ruleset::default();
    let asked = Errno::last();
    let rules = Rules::open(readable, writable)?;
    let level = match rules.put_in_force(ruleset) {
        Ok(RestrictionStatus {
            landlock: LandlockStatus::Available { effective_abi, .. }, ruleset, ..
        }) => Level { abi: Ok(effective_abi), is_whole: ruleset == RulesetStatus::FullyEnforced },
        Ok(_) => Level { abi: Err(SandboxError::NoLandlock(asked)), is_whole: false },
        Err(error) => Level { abi: Err(refused(error)), is_whole: false },
    };
    Ok(level)
}

/// A filter of what started this process may let it ask for Landlock, and not use it.
fn refused(error: RulesetError) -> SandboxError {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match source.and_then(io::Error::raw_os_error).map(Errno::from_raw) {
        Some(errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS)) => SandboxError::NoLandlock(errno),
        _ => SandboxError::Landlock(Box::new(error)),
    }
}

/// Files and directories that are open, and what is granted on each.
struct Rules(Vec<(OwnedFd, BitFlags<AccessFs>)>);

impl Rules {
    fn open(readable: &[PathBuf], writable: &[PathBuf]) -> Result<Rules, SandboxError> {
        let read = AccessFs::from_read(NEEDED_ABI);
        // Devices are neither made nor talked to.
        let write =
            AccessFs::from_all(NEEDED_ABI) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let mut rules = Rules(Vec::new());
        for path in SYSTEM {
            rules.add_if_there(Path::new(path), read);
        }
        for path in LINKED_SETTINGS {
            rules.add_if_there(Path::new(path), AccessFs::ReadFile.into());
        }
        for path in DEVICES {
            rules.add_if_there(Path::new(path), device);
        }
        let (read, write) =
            (readable.iter().map(|path| (path, read)), writable.iter().map(|path| (path, write)));
        for (path, access) in read.chain(write) {
            let added = open_without_links(path).and_then(|file| rules.add(file, access));
            added.map_err(|source| SandboxError::Path { path: path.clone(), source: source.into() })?;
        }
        Ok(rules)
    }

    /// What is on no system alike: a missing one is no error, and one that cannot be opened stays closed.
    fn add_if_there(&mut self, path: &Path, access: BitFlags<AccessFs>) {
        let _ = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| self.add(file, access));
    }

    fn add(&mut self, file: OwnedFd, access: BitFlags<AccessFs>) -> io::Result<()> {
        let is_directory = kind(&file)? == SFlag::S_IFDIR;
        self.0.push((file, if is_directory { access } else { access & AccessFs::from_file(NEEDED_ABI) }));
        Ok(())
    }

    fn put_in_force(self, ruleset: Ruleset) -> Result<RestrictionStatus, RulesetError> {
        let mut created: RulesetCreated = ruleset
            .handle_access(AccessFs::from_all(NEEDED_ABI))?
            .scope(Scope::from_all(NEEDED_ABI))?
            .create()?;
        for (file, access) in self.0 {
            created = created.add_rule(PathBeneath::new(file, access))?;
        }
        created.restrict_self()
    }
}

fn kind(file: &OwnedFd) -> nix::Result<SFlag> {
    fstat(file).map(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT)
}

/// Opens a path that had no link in it when it was granted. Where a task may write, it could put one there since then, and
/// be granted what that leads to.
fn open_without_links(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = open("/", flags, Mode::empty())?;
    for component in path.components() {
        file = match component {
            Component::RootDir => file,
            Component::Normal(name) => openat(&file, name, flags, Mode::empty())?,
            _ => return Err(io::Error::other("it must be absolute, without `..`")),
        };
        if kind(&file)? == SFlag::S_IFLNK {
            let name = shown(&component.as_os_str().to_string_lossy());
            return Err(io::Error::other(format!("`{name}` in it is a link; name what it leads to")));
        }
    }
    Ok(file)
}

/// Which of the directories that every task reads a path lies below, if it does.
pub fn readable_above(path: &Path) -> Option<&'static str> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    SYSTEM.into_iter().find(|system| fs::canonicalize(system).is_ok_and(|system| path.starts_with(system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_directory_of_the_system_is_found() {
        assert_eq!(readable_above(Path::new("/usr/none/attempts")), Some("/usr"));
        assert_eq!(readable_above(Path::new("/etc")), Some("/etc"));
        assert_eq!(readable_above(Path::new("/usrs")), None);
        assert_eq!(readable_above(Path::new("/var/lib")), None);
        // By what it is, however it is called.
        assert_eq!(readable_above(Path::new("/proc/self/cwd/../../../../../../../../etc")), Some("/etc"));
    }

    fn required(abi: ABI, is_whole: bool) -> Result<(), String> {
        Level { abi: Ok(abi), is_whole }.expect_whole().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn an_older_kernel_leaves_open_what_it_cannot_close() {
        let [truncating, ioctl] = ["truncating files of its user (before Linux 6.2)", IOCTL];
        for (abi, open) in [
            (ABI::V1, vec![truncating, ioctl, SIGNALS]),
            (ABI::V2, vec![truncating, ioctl, SIGNALS]),
            (ABI::V3, vec![ioctl, SIGNALS]),
            (ABI::V4, vec![ioctl, SIGNALS]),
            (ABI::V5, vec![SIGNALS]),
        ] {
            assert_eq!(Level { abi: Ok(abi), is_whole: false }.open(), open);
            let why = required(abi, false).unwrap_err();
            let wanted = format!("this kernel's Landlock has version {abi}, and 6 (Linux 6.12) is needed: ");
            assert!(why.starts_with(&wanted) && open.iter().all(|what| why.contains(what)), "{why}");
        }
        for abi in [ABI::V6, ABI::V7, ABI::V10] {
            assert!(Level { abi: Ok(abi), is_whole: true }.open().is_empty());
            assert_eq!(required(abi, true), Ok(()));
            assert!(required(abi, false).is_err(), "not all that was asked for is in force");
        }
    }
}
