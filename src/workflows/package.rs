//! A package whose manifest and files fit together, out of an archive or a directory.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use super::archive::{self, Nowhere, Tree, WalkError, Walked};
use super::manifest::{FILE_NAME, Manifest};
use super::problem::Problem;

#[derive(Debug)]
pub struct Package {
    pub manifest: Manifest,
    pub manifest_text: String,
}

#[derive(Debug)]
pub enum PackageError {
    /// All that is wrong with it; at least one.
    Problems(Vec<Problem>),
    /// The archive or the directory could not be read, or the archive not be written.
    Read(io::Error),
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackageError::Problems(problems) => {
                let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            PackageError::Read(error) => error.fmt(f),
        }
    }
}

impl Package {
    /// Reads a `.tar.gz` once, to its end, and keeps nothing of it but the manifest.
    ///
    /// # Errors
    /// It is no package, or cannot be read.
    pub fn from_archive(reader: impl Read) -> Result<Package, PackageError> {
        match archive::walk(reader, &mut Nowhere) {
            Ok(Walked { mut tree, manifest }) => Package::of(&mut tree, manifest),
            Err(WalkError::Problems(problems)) => Err(PackageError::Problems(problems)),
            Err(WalkError::Read(error) | WalkError::Write(error)) => Err(PackageError::Read(error)),
        }
    }

    /// What `from_archive` would make of the directory once it is packed.
    ///
    /// # Errors
    /// It is no package, or cannot be read.
    pub fn from_directory(directory: &Path) -> Result<Package, PackageError> {
        let mut scanned = archive::scan(directory, &[])?;
        Package::of(&mut scanned.tree, scanned.manifest)
    }

    /// All problems of the files, and then all those of the manifest.
    pub(super) fn of(tree: &mut Tree, manifest: Option<Vec<u8>>) -> Result<Package, PackageError> {
        let mut problems = tree.problems.take();
        let Some(bytes) = manifest else { return Err(PackageError::Problems(problems)) };
        let parsed = match String::from_utf8(bytes) {
            Ok(text) => Manifest::parse(&text, &|path| tree.found(path)).map(|manifest| (manifest, text)),
            Err(error) => Err(vec![not_text(error.as_bytes(), error.utf8_error().valid_up_to())]),
        };
        match parsed {
            Ok((manifest, manifest_text)) if problems.is_empty() => Ok(Package { manifest, manifest_text }),
            Ok(_) => Err(PackageError::Problems(problems)),
            Err(further) => {
                problems.extend(further);
                Err(PackageError::Problems(problems))
            }
        }
    }
}

fn not_text(bytes: &[u8], valid_up_to: usize) -> Problem {
    let line = 1 + bytes[..valid_up_to].iter().filter(|byte| **byte == b'\n').count();
    let message = "is not UTF-8 from here on; save it as UTF-8".to_owned();
    Problem { file: FILE_NAME.to_owned(), line: Some(line), column: None, message }
}
