//! Plays systemd's part towards a service of `Type=notify`: the socket on which it says how it is.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::directory::Directory;

pub struct Supervisor {
    socket: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    pub address: OsString,
    _directory: Option<Directory>,
}

impl Supervisor {
    /// With a socket in the file system, as systemd itself has.
    pub fn new() -> Supervisor {
        let directory = Directory::new();
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Supervisor { socket, address: path.into_os_string(), _directory: Some(directory) }
    }

    /// With a socket that is a name alone, as some container engines have.
    pub fn with_abstract_name() -> Supervisor {
        let name = super::directory::fresh_path("n");
        let name = name.to_str().unwrap();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Supervisor { socket, address: format!("@{name}").into(), _directory: None }
    }

    /// The next message, if one comes within so long.
    pub fn message(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut message = [0; 4096];
        match self.socket.recv(&mut message) {
            Ok(count) => Some(String::from_utf8(message[..count].to_vec()).unwrap()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            // A wait with a deadline is not taken up again after a signal, such as that of a child that stops.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.message(within),
            Err(error) => panic!("the notification socket: {error}"),
        }
    }

    /// What has been said until now.
    pub fn messages(&self) -> Vec<String> {
        std::iter::from_fn(|| self.message(Duration::from_millis(1))).collect()
    }

    #[track_caller]
    pub fn expect(&self, message: &str) {
        assert_eq!(self.message(PATIENCE).as_deref(), Some(message));
    }

    /// Waits until it has been said, whatever else is said before.
    #[track_caller]
    pub fn wait_for(&self, message: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.message(PATIENCE).unwrap_or_else(|| panic!("nobody says {message}")) != message {
            assert!(Instant::now() < deadline, "other things are said, and never {message}");
        }
    }
}
