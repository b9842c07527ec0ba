//! Directories of a test's own, gone when the test is over.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

/// A fresh directory of mode 0700 in the system's temporary directory. Clones are the same directory; the last one
/// to go removes it.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Owned>);

#[derive(Debug)]
struct Owned(PathBuf);

/// What the name of every directory of ours starts with; the id of the process that made it follows.
const PREFIX: &str = "cloacinactl-it-";

impl Directory {
    pub fn new() -> Directory {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep("d", |left| _ = fs::remove_dir_all(left)));
        let path = fresh_path("d");
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Directory(Arc::new(Owned(path)))
    }

    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// A path in it, as text.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // A test may have taken away its own right to write.
        let _ = fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A path that nothing has yet, whose name says which process made it. `kind` is one letter.
pub fn fresh_path(kind: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let mut random = [0; 4];
    getrandom::fill(&mut random).unwrap();
    let random = u32::from_le_bytes(random);
    std::env::temp_dir().join(format!("{PREFIX}{process}-{kind}{count}-{random:08x}"))
}

/// Hands over what runs of the past left behind: directories of this kind whose process is gone.
pub fn sweep(kind: &str, mut remove: impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'))
            .filter(|(_, rest)| rest.starts_with(kind))
            .and_then(|(process, _)| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            remove(&entry.path());
        }
    }
}
