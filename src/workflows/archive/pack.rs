//! A directory becomes an archive: the same tree gives the same bytes, whose and of when it ever is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::directory::{self, Scanned};
use super::tree::Node;
use crate::workflows::names::Version;
use crate::workflows::package::{Package, PackageError};
use crate::workflows::problem::Problem;

/// Packs what is in the directory but `.git`, the files `left_out` (what is written, and what it will replace), and
/// earlier packages of that name at its top. Memory does not grow with the files.
///
/// # Errors
/// What an upload of it would be refused for; it cannot be read, or `output` not be written.
pub fn pack(directory: &Path, output: impl Write, left_out: &[&Path]) -> Result<Package, PackageError> {
    let Scanned { mut tree, manifest } = directory::scan(directory, left_out)?;
    let package = Package::of(&mut tree, manifest)?;
    let gzip = GzBuilder::new().mtime(0).operating_system(3).write(output, Compression::default());
    let mut builder = Builder::new(gzip);
    for (path, node) in tree.nodes() {
        if is_earlier_package(path, package.manifest.name.as_str()) {
            continue;
        }
        match append(&mut builder, directory, path, node) {
            Ok(()) => {}
            Err(PackError::File(error)) => {
                let message = format!("cannot be read: {error}");
                let problem = Problem { file: path.to_owned(), line: None, column: None, message };
                return Err(PackageError::Problems(vec![problem]));
            }
            Err(PackError::Output(error)) => return Err(PackageError::Read(error)),
        }
    }
    let finished = builder.into_inner().and_then(flate2::write::GzEncoder::finish);
    finished.and_then(|mut output| output.flush()).map_err(PackageError::Read)?;
    Ok(package)
}

enum PackError {
    File(io::Error),
    Output(io::Error),
}

fn is_earlier_package(path: &str, name: &str) -> bool {
    let version = path.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar.gz"));
    version.is_some_and(|version| Version::parse(version).is_ok())
}

fn append(
    builder: &mut Builder<impl Write>,
    directory: &Path,
    path: &str,
    node: &Node,
) -> Result<(), PackError> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mode(0o755);
    match node {
        Node::Directory { .. } => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), io::empty()).map_err(PackError::Output)
        }
        Node::File { is_executable, size } => {
            header.set_size(*size);
            header.set_mode(if *is_executable { 0o755 } else { 0o644 });
            let file = directory::open(&directory.join(path)).map_err(PackError::File)?;
            let mut content = Content { file, left: *size, error: None };
            let appended = builder.append_data(&mut header, path, &mut content);
            match content.error.take() {
                Some(error) => Err(PackError::File(error)),
                None => appended.map_err(PackError::Output),
            }
        }
        Node::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            // As it is, while the builder would write `./a` as `a`; one that is too long for a header it keeps.
            match header.set_link_name_literal(target) {
                Ok(()) => builder.append_data(&mut header, path, io::empty()),
                Err(_) => builder.append_link(&mut header, path, target),
            }
            .map_err(PackError::Output)
        }
        // No directory has one in a tree of its own.
        Node::HardLink { .. } => Ok(()),
    }
}

/// A file that has to be as long as it was found to be.
struct Content {
    file: File,
    left: u64,
    error: Option<io::Error>,
}

impl Content {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let changed = || Err(io::Error::other("it was changed meanwhile"));
        let count = self.file.read(buffer)? as u64;
        if count > self.left || count == 0 && self.left > 0 && !buffer.is_empty() {
            return changed();
        }
        self.left -= count;
        usize::try_from(count).map_err(io::Error::other)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            io::Error::from(kind)
        })
    }
}
