//! Making and reading the files of an attempt directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attempt::FORMAT;
use crate::plain_file;

/// The most that a specification or an outcome takes as JSON, outputs included.
const MOST_BYTES: u64 = 64 << 20;

pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // What the umask took away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

pub fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

pub fn write_new(path: &Path, value: &impl Serialize) -> io::Result<()> {
    new_file(path)?.write_all(&serde_json::to_vec(value)?)
}

pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    #[derive(Deserialize)]
    struct Formatted {
        format: u32,
    }
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()));
    let bytes = plain_file::read(path, MOST_BYTES).map_err(named)?;
    // Looked at first: the fields of another format may be others.
    let format = serde_json::from_slice::<Formatted>(&bytes).map_err(|error| named(error.into()))?.format;
    if format != FORMAT {
        let why = format!("its format is {format}, and this version reads {FORMAT} alone");
        return Err(named(io::Error::new(io::ErrorKind::Unsupported, why)));
    }
    serde_json::from_slice(&bytes).map_err(|error| named(error.into()))
}
