//! An archive becomes a directory, all of it or nothing. What is unpacked so far is in `DESTINATION.partial-UUID` beside
//! it; links are made last, so that nothing is ever written through one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::tree::{Node, Tree};
use super::walk::{Sink, WalkError, Walked, walk};
use crate::engine::remove_tree::remove_tree;

const PARTIAL: &str = ".partial-";

/// Unpacks into `destination`, which must not exist; its parent must.
///
/// # Errors
/// The archive is no package, or cannot be read; the destination cannot be written. Then nothing is left there.
pub fn unpack(reader: impl Read, destination: &Path, id: Uuid) -> Result<(), WalkError> {
    let directory = match destination.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(WalkError::Write(io::Error::from(io::ErrorKind::AlreadyExists))),
    };
    let parent = File::open(directory).map_err(WalkError::Write)?;
    if fs::symlink_metadata(destination).is_ok() {
        return Err(WalkError::Write(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    clear_partial(directory, &parent);
    let partial = Partial::create(partial_path(destination, id)).map_err(WalkError::Write)?;
    let content = partial.0.join("content");
    let mut disk = Disk { content, file: None };
    disk.directory("").map_err(WalkError::Write)?;
    let Walked { mut tree, .. } = walk(reader, &mut disk)?;
    if !tree.problems.is_empty() {
        return Err(WalkError::Problems(tree.problems.take()));
    }
    disk.finish(&tree, destination).and_then(|()| parent.sync_all()).map_err(WalkError::Write)
}

/// Where it is unpacked first. Killed at any moment, a process leaves nothing but this.
pub fn partial_path(destination: &Path, id: Uuid) -> PathBuf {
    let mut path = destination.as_os_str().to_owned();
    path.push(format!("{PARTIAL}{id}"));
    PathBuf::from(path)
}

/// Removes what killed processes left in the directory, unless another process unpacks into it right now: each holds a
/// shared lock of the directory. It is held from here on, as long as `parent`, which is the directory, is open.
fn clear_partial(directory: &Path, parent: &File) {
    if parent.try_lock().is_ok()
        && let Ok(entries) = fs::read_dir(directory)
    {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.rsplit_once(PARTIAL)).map(|(_, id)| id);
            if id.is_some_and(|id| Uuid::parse_str(id).is_ok()) {
                // One that cannot be removed is in no other's way.
                let _ = remove_tree(&entry.path());
            }
        }
    }
    // A file system without locks clears nothing either.
    let _ = parent.lock_shared();
}

/// Removed with all that is in it.
struct Partial(PathBuf);

impl Partial {
    fn create(path: PathBuf) -> io::Result<Partial> {
        DirBuilder::new().mode(0o700).create(&path).map(|()| Partial(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = remove_tree(&self.0);
    }
}

struct Disk {
    /// As long as the walk goes on it holds directories and files that were made here, and nothing else.
    content: PathBuf,
    file: Option<File>,
}

impl Sink for Disk {
    fn directory(&mut self, path: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(self.content.join(path))
    }

    fn file(&mut self, path: &str, is_executable: bool) -> io::Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        let mode = if is_executable { 0o755 } else { 0o644 };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode).custom_flags(nix::libc::O_NOFOLLOW);
        self.file = Some(options.open(self.content.join(path))?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }
}

impl Disk {
    fn finish(mut self, tree: &Tree, destination: &Path) -> io::Result<()> {
        for (path, node) in tree.nodes() {
            if let Node::Directory { .. } = node {
                self.directory(path)?;
            }
        }
        for (path, node) in tree.nodes() {
            if let Node::HardLink { target } = node {
                fs::hard_link(self.content.join(target), self.content.join(path))?;
            }
        }
        for (path, node) in tree.nodes() {
            if let Node::Symlink { target } = node {
                symlink(target, self.content.join(path))?;
            }
        }
        let root = self.content.join(tree.root().trim_end_matches('/'));
        nix::unistd::syncfs(File::open(&root)?)?;
        fs::rename(root, destination)
    }
}
