//! One way through an archive, for checking and for unpacking it.

use std::io::{self, Read};

use super::MOST_MANIFEST_BYTES;
use super::gzip::{Fault, Gunzip};
use super::members::{Members, Stopped};
use super::problems::WHOLE;
use super::tree::{Kind, Node, Tree};
use crate::workflows::manifest::FILE_NAME;
use crate::workflows::problem::Problem;

/// Where the content of an archive goes. A file's parents may not have been named before it; links come when the walk is
/// over.
pub trait Sink {
    fn directory(&mut self, path: &str) -> io::Result<()>;
    /// The file that what is written goes to from now on.
    fn file(&mut self, path: &str, is_executable: bool) -> io::Result<()>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// For an archive that is only checked.
pub struct Nowhere;

impl Sink for Nowhere {
    fn directory(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _: &str, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub enum WalkError {
    Problems(Vec<Problem>),
    Read(io::Error),
    /// The sink's.
    Write(io::Error),
}

/// All of an archive, or of one that is damaged or too large what is before that.
pub struct Walked {
    /// With all problems but the manifest's.
    pub tree: Tree,
    /// The bytes of `package.toml`, where there is one of a size that is allowed.
    pub manifest: Option<Vec<u8>>,
}

/// Goes through an archive, to its end where that is possible. Nothing more is given to the sink after the first problem.
///
/// # Errors
/// Not the archive's: it could not be read, or the sink not be written to.
pub fn walk(reader: impl Read, sink: &mut impl Sink) -> Result<Walked, WalkError> {
    let mut tree = Tree::default();
    let mut manifests = Manifests::default();
    match walk_entries(reader, &mut tree, &mut manifests, sink) {
        Ok(()) => tree.finish(),
        Err(End::Write(error)) => return Err(WalkError::Write(error)),
        Err(End::Stopped(Stopped { fault: Fault::Read(error), .. })) => return Err(WalkError::Read(error)),
        Err(End::Stopped(Stopped { name, fault: Fault::Damaged(message) })) => {
            tree.problems.add(name.as_deref().unwrap_or(WHOLE.as_bytes()), message);
        }
        // The problem is noted.
        Err(End::TooMuch) => {}
    }
    let manifest = manifests.take(tree.is_finished.then(|| tree.manifest_path()));
    Ok(Walked { tree, manifest })
}

enum End {
    Stopped(Stopped),
    TooMuch,
    Write(io::Error),
}

fn walk_entries(
    reader: impl Read,
    tree: &mut Tree,
    manifests: &mut Manifests,
    sink: &mut impl Sink,
) -> Result<(), End> {
    let whole = |fault| End::Stopped(Stopped { name: None, fault });
    let mut members = Members::new(Gunzip::new(reader).map_err(whole)?);
    let mut buffer = vec![0; 64 * 1024];
    while let Some(entry) = members.next().map_err(End::Stopped)? {
        let (is_directory, size) = match entry.kind {
            Kind::Directory => (true, 0),
            Kind::File { size } => (false, size),
            _ => (false, 0),
        };
        let Some(path) = tree.add(entry).map_err(|_| End::TooMuch)? else { continue };
        let is_executable = match tree.node(&path) {
            Some(Node::File { is_executable, .. }) => *is_executable,
            _ if is_directory && tree.problems.is_empty() => {
                sink.directory(&path).map_err(End::Write)?;
                continue;
            }
            _ => continue,
        };
        let mut manifest = manifests.may_be(&path, size).then(Vec::new);
        if tree.problems.is_empty() {
            sink.file(&path, is_executable).map_err(End::Write)?;
        }
        loop {
            let count = members.read(&mut buffer).map_err(whole)?;
            if count == 0 {
                break;
            }
            if let Some(manifest) = &mut manifest {
                manifest.extend_from_slice(&buffer[..count]);
            }
            if tree.problems.is_empty() {
                sink.write(&buffer[..count]).map_err(End::Write)?;
            }
        }
        manifests.found.extend(manifest.map(|bytes| (path, bytes)));
    }
    Ok(())
}

/// Which of them is the package's is known at the end: the one at the top, or else the one in the one top folder, which
/// is then the first that was found in a folder.
#[derive(Default)]
struct Manifests {
    found: Vec<(String, Vec<u8>)>,
}

impl Manifests {
    fn may_be(&self, path: &str, size: u64) -> bool {
        let Some(folder) = path.strip_suffix(FILE_NAME) else { return false };
        let is_first = || self.found.iter().all(|(path, _)| path == FILE_NAME);
        let is_in_place = folder.is_empty() || folder.find('/') == Some(folder.len() - 1) && is_first();
        is_in_place && size <= MOST_MANIFEST_BYTES
    }

    /// Without a path the one that comes first.
    fn take(self, path: Option<String>) -> Option<Vec<u8>> {
        let is_at = |found: &str| path.as_deref().is_none_or(|path| found == path);
        let mut found = self.found;
        found.sort_by_key(|(path, _)| path.len());
        found.into_iter().find(|(path, _)| is_at(path)).map(|(_, bytes)| bytes)
    }
}
