//! A directory as the package that it would be packed into.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::MOST_MANIFEST_BYTES;
use super::tree::{Entry, Kind, Node, TooMuch, Tree};
use crate::plain_file;
use crate::workflows::package::PackageError;

/// What a version control system keeps about the directory is no part of it.
const NOT_PACKED: &str = ".git";

pub struct Scanned {
    pub tree: Tree,
    pub manifest: Option<Vec<u8>>,
}

/// Looks at all of a directory, but for `.git` and the files `left_out`. No link is followed.
///
/// # Errors
/// The directory cannot be read, or holds more than a package may.
pub fn scan(directory: &Path, left_out: &[&Path]) -> Result<Scanned, PackageError> {
    let left_out =
        left_out.iter().filter_map(|path| fs::metadata(path).ok()).map(identity).collect::<Vec<_>>();
    let mut tree = Tree::default();
    let mut left = vec![(PathBuf::new(), sorted_names(directory).map_err(PackageError::Read)?)];
    while let Some((parent, names)) = left.last_mut() {
        let Some(name) = names.pop() else {
            left.pop();
            continue;
        };
        let path = parent.join(name);
        let entry = match fs::symlink_metadata(directory.join(&path)) {
            Ok(metadata) if left_out.contains(&identity(metadata.clone())) => continue,
            Ok(metadata) => entry(directory, &path, &metadata),
            Err(error) => Err(error),
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                tree.problems.add(path.as_os_str().as_bytes(), format!("cannot be read: {error}"));
                continue;
            }
        };
        let is_directory = matches!(entry.kind, Kind::Directory);
        match tree.add(entry) {
            Ok(Some(_)) if is_directory => {}
            Ok(_) => continue,
            Err(TooMuch) => return Err(PackageError::Problems(tree.problems.take())),
        }
        match sorted_names(&directory.join(&path)) {
            Ok(names) => left.push((path, names)),
            Err(error) => tree.problems.add(path.as_os_str().as_bytes(), format!("cannot be read: {error}")),
        }
    }
    tree.finish();
    let manifest = read_manifest(directory, &mut tree);
    Ok(Scanned { tree, manifest })
}

/// The file itself, if it is one.
///
/// # Errors
/// It cannot be opened, or is a link.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn identity(metadata: Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The last one first.
fn sorted_names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != OsStr::new(NOT_PACKED) {
            names.push(PathBuf::from(name));
        }
    }
    names.sort_by(|one, other| other.as_os_str().cmp(one.as_os_str()));
    Ok(names)
}

fn entry(directory: &Path, path: &Path, metadata: &Metadata) -> io::Result<Entry> {
    let kind = metadata.file_type();
    let other = |what| Kind::Other { what, size: 0 };
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        Kind::File { size: metadata.len() }
    } else if kind.is_symlink() {
        Kind::Symlink { target: fs::read_link(directory.join(path))?.into_os_string().into_vec() }
    } else if kind.is_fifo() {
        other("a named pipe")
    } else if kind.is_socket() {
        other("a socket")
    } else {
        other("a device")
    };
    Ok(Entry { name: path.as_os_str().as_bytes().to_vec(), kind, mode: metadata.mode() & 0o7777 })
}

fn read_manifest(directory: &Path, tree: &mut Tree) -> Option<Vec<u8>> {
    let path = tree.manifest_path();
    match tree.node(&path) {
        Some(Node::File { size, .. }) if *size <= MOST_MANIFEST_BYTES => {}
        _ => return None,
    }
    let read = open(&directory.join(&path)).and_then(|file| plain_file::read_from(file, MOST_MANIFEST_BYTES));
    read.map_err(|error| tree.problems.add(path.as_bytes(), format!("cannot be read: {error}"))).ok()
}
