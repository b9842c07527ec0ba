//! Which host this is: an identity in the home that no other server and no other machine has.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::plain_file;
use crate::sha256;
use crate::terminal::shown;

pub const NAME: &str = "host";
const LOCK_NAME: &str = "host.lock";
const MOST_BYTES: u64 = 64 << 10;

/// For a server that is just ending. A process that one was starting when it was killed has the lock for a moment, too.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// Programs are not to show a machine's id to others: what is made of it here tells machines apart as well.
const MACHINE_SALT: &[u8] = b"cloacinactl host ";

/// The identity of this host, as long as this server has the lock of its home.
#[derive(Debug)]
pub struct Host {
    pub id: Uuid,
    /// What the system calls itself.
    pub name: String,
    /// Of the system that runs now.
    pub boot: Uuid,
    _lock: File,
}

/// `HOME/host`.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    id: Uuid,
    /// None in a container, whose machine is another one each time.
    machine: Option<String>,
    /// Of this file, which a copy on the same machine does not have. No device: its number may be another one after a
    /// reboot. None where there is no machine either.
    #[serde(default)]
    inode: Option<u64>,
}

impl Host {
    /// Takes the lock of the home, and reads who this host is, or makes it up.
    ///
    /// # Errors
    /// Why no tasks may run with this home, and what to do.
    pub fn open(home: &Path) -> Result<Host, String> {
        Host::open_on(home, machine().as_deref())
    }

    fn open_on(home: &Path, machine: Option<&str>) -> Result<Host, String> {
        let boot = boot()?;
        let name = hostname();
        let lock = lock(home)?;
        let path = home.join(NAME);
        let identity = match plain_file::read(&path, MOST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity =
                    Identity { id: Uuid::new_v4(), machine: machine.map(str::to_owned), inode: None };
                write(home, identity).map_err(|error| format!("cannot write {}: {error}", path.display()))?
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                format!(
                    "{} does not say which host this is: {error}. {}",
                    path.display(),
                    make_anew(&path, &name)
                )
            })?,
        };
        let inode = fs::symlink_metadata(&path)
            .map_err(|error| format!("cannot look at {}: {error}", path.display()))?
            .ino();
        let differs = match (&identity.machine, machine) {
            (Some(its), Some(this)) if its != this => "is from another machine, which may run tasks still",
            (Some(_), Some(_)) if identity.inode.is_some_and(|its| its != inode) => {
                "is a copy, or was restored from a backup: a server with the first one may run tasks still"
            }
            _ => return Ok(Host { id: identity.id, name, boot, _lock: lock }),
        };
        Err(format!(
            "the home {} {differs}. Give this server a home of its own. Or, if it was moved here, {}",
            home.display(),
            make_anew(&path, &name)
        ))
    }
}

/// What to do about an identity that is another's, or none.
fn make_anew(path: &Path, name: &str) -> String {
    format!(
        "run `cloacinactl hosts forget NAME` with the name that `cloacinactl hosts list` has for the host that this home \
         was of (this one is called {}), then delete {}",
        shown(name),
        path.display()
    )
}

/// Held as long as the file is open.
fn lock(home: &Path) -> Result<File, String> {
    let path = home.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let opened = options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(&path);
    let lock = opened.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    let locked = loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOOK),
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(format!(
            "another server runs tasks with the home {}: give this one a home of its own, with --home, or no tasks, with \
             --task-slots 0. If the home was copied, delete {} in the copy",
            home.display(),
            home.join(NAME).display()
        )),
        Err(TryLockError::Error(error)) => {
            Err(format!("cannot lock {}: {error}; keep the home on a local disk", path.display()))
        }
    }
}

/// At once or not at all, and so that it outlives a loss of power.
fn write(home: &Path, mut identity: Identity) -> io::Result<Identity> {
    let new = home.join(format!("{NAME}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    // What the umask took away.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    identity.inode = match identity.machine {
        Some(_) => Some(file.metadata()?.ino()),
        None => None,
    };
    let mut text = serde_json::to_vec(&identity)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, home.join(NAME))?;
    File::open(home)?.sync_all()?;
    Ok(identity)
}

fn boot() -> Result<Uuid, String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).map_err(|error| format!("cannot read {PATH}: {error}"))?;
    Uuid::parse_str(text.trim()).map_err(|error| format!("{PATH} is no UUID: {error}"))
}

fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// What tells this machine from others; `None` in a container, and where the system has no id.
fn machine() -> Option<String> {
    let is_container = ["/run/.containerenv", "/.dockerenv"].iter().any(|path| Path::new(path).exists());
    if is_container || std::process::id() == 1 {
        return None;
    }
    let text = plain_file::read(&PathBuf::from("/etc/machine-id"), MOST_BYTES).ok()?;
    machine_of(std::str::from_utf8(&text).ok()?)
}

/// The file says `uninitialized` in an image that has not been started yet.
fn machine_of(text: &str) -> Option<String> {
    let id = text.trim();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let hash = Sha256::new().chain_update(MACHINE_SALT).chain_update(id.to_ascii_lowercase()).finalize();
    Some(sha256::hex(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(PathBuf);

    impl Home {
        fn new() -> Home {
            let path = std::env::temp_dir().join(format!("cloacinactl-host-{}", Uuid::new_v4()));
            fs::create_dir(&path).unwrap();
            Home(path)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_host_is_the_same_after_a_restart() {
        let home = Home::new();
        let host = Host::open_on(&home.0, Some("a")).unwrap();
        assert!(!host.name.is_empty() && !host.boot.is_nil());
        let mode = |name: &str| fs::metadata(home.0.join(name)).unwrap().mode() & 0o777;
        assert_eq!([mode(NAME), mode(LOCK_NAME)], [0o600, 0o600]);
        let id = host.id;
        drop(host);
        // A server was killed while it wrote it for the first time.
        fs::write(home.0.join("host.new"), "{").unwrap();
        assert_eq!(Host::open_on(&home.0, Some("a")).unwrap().id, id);
        // It has been in a container, or is in one now.
        assert_eq!(Host::open_on(&home.0, None).unwrap().id, id);
        fs::remove_file(home.0.join(NAME)).unwrap();
        let anew = Host::open_on(&home.0, None).unwrap().id;
        assert_ne!(anew, id);
        assert!(!home.0.join("host.new").exists());
        assert_eq!(Host::open_on(&home.0, Some("b")).unwrap().id, anew);
    }

    #[test]
    fn a_copy_of_a_home_is_another_home() {
        let [home, copy] = [(); 2].map(|()| Home::new());
        let first = Host::open_on(&home.0, Some("a")).unwrap();
        fs::copy(home.0.join(NAME), copy.0.join(NAME)).unwrap();
        let why = Host::open_on(&copy.0, Some("a")).unwrap_err();
        for part in ["is a copy", "hosts forget NAME", "then delete"] {
            assert!(why.contains(part), "{why}");
        }
        // In a container it may be on another file system each time.
        assert_eq!(Host::open_on(&copy.0, None).unwrap().id, first.id);
        fs::remove_file(copy.0.join(NAME)).unwrap();
        assert_ne!(Host::open_on(&copy.0, Some("a")).unwrap().id, first.id);
        // Moved on the same file system it is what it was.
        drop(first);
        fs::remove_dir_all(&copy.0).unwrap();
        fs::rename(&home.0, &copy.0).unwrap();
        Host::open_on(&copy.0, Some("a")).unwrap();
    }

    #[test]
    fn a_second_server_is_refused() {
        let home = Home::new();
        let first = Host::open_on(&home.0, None).unwrap();
        let why = Host::open_on(&home.0, None).unwrap_err();
        assert!(why.starts_with("another server runs tasks with the home"), "{why}");
        drop(first);
        Host::open_on(&home.0, None).unwrap();
    }

    #[test]
    fn a_home_of_another_machine_is_refused() {
        let home = Home::new();
        drop(Host::open_on(&home.0, Some("a")).unwrap());
        let why = Host::open_on(&home.0, Some("b")).unwrap_err();
        let file = home.0.join("host").display().to_string();
        for part in
            ["is from another machine", "`cloacinactl hosts forget NAME`", &format!("then delete {file}")]
        {
            assert!(why.contains(part), "{why}");
        }
        fs::remove_file(home.0.join(NAME)).unwrap();
        Host::open_on(&home.0, Some("b")).unwrap();
    }

    #[test]
    fn what_is_no_identity_is_said() {
        let home = Home::new();
        for (text, part) in [
            ("", "EOF"),
            ("{\"id\":", "EOF"),
            ("{\"id\":\"x\",\"machine\":null}", "invalid character"),
            ("{\"machine\":null}", "missing field `id`"),
            ("\0\0\0\0", "expected value"),
        ] {
            fs::write(home.0.join(NAME), text).unwrap();
            let why = Host::open_on(&home.0, None).unwrap_err();
            assert!(why.contains(part) && why.contains("then delete"), "{text}: {why}");
            // It stays as it was, for a person to look at.
            assert_eq!(fs::read_to_string(home.0.join(NAME)).unwrap(), text);
        }
        fs::remove_file(home.0.join(NAME)).unwrap();
        fs::create_dir(home.0.join(NAME)).unwrap();
        let why = Host::open_on(&home.0, None).unwrap_err();
        assert!(why.starts_with("cannot read "), "{why}");
        let why = Host::open_on(Path::new("/nowhere/at/all"), None).unwrap_err();
        assert_eq!(why, "cannot open /nowhere/at/all/host.lock: No such file or directory (os error 2)");
    }

    #[test]
    fn machines_are_told_apart_without_their_ids() {
        let [a, b] =
            ["0123456789abcdef0123456789abcdef\n", "1123456789abcdef0123456789abcdef"].map(machine_of);
        assert!(a.is_some() && a != b);
        assert!(!a.unwrap().contains("0123456789abcdef"));
        for none in ["", "uninitialized\n", "0123", "g123456789abcdef0123456789abcdef"] {
            assert_eq!(machine_of(none), None);
        }
    }
}
