//! Which host this is: an identity in the home that no other server and no other machine has.

use std::path::Path;

use uuid::Uuid;

/// The identity of this host, as long as this server has the lock of its home.
#[derive(Debug)]
pub struct Host {
    pub id: Uuid,
    /// What the system calls itself.
    pub name: String,
    /// Of the system that runs now.
    pub boot: Uuid,
}

impl Host {
    /// Takes the lock of the home, and reads who this host is, or makes it up.
    ///
    /// # Errors
    /// Why no tasks may run with this home, and what to do.
    pub fn open(home: &Path) -> Result<Host, String> {
        let _ = home;
        todo!()
    }
}
