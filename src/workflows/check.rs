//! The check of an upload before it is kept: where in the body its package is, and whether that is right. Bounded in time,
//! since one upload after another is checked.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::multipart::{self, Part};
use super::package::{Package, PackageError};
use super::problem::Problem;
use crate::error::Error;
use crate::sha256;

/// A check has so much time, and a second more for so many bytes.
const LIMIT: Duration = Duration::from_secs(20);
const BYTES_PER_SECOND: u64 = 4 * 1024 * 1024;

/// How the package stands in the body.
pub enum Form {
    Plain,
    Multipart { boundary: Vec<u8> },
}

/// All that came.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    pub file: &'a File,
    /// Bytes.
    pub length: u64,
}

/// A package that was found to be right.
pub struct Checked {
    pub package: Package,
    /// Where in the body it is.
    pub part: Part,
    /// In hex.
    pub sha256: String,
}

/// How long the check of so many bytes may take.
pub fn check_limit(bytes: u64) -> Duration {
    LIMIT + Duration::from_secs(bytes / BYTES_PER_SECOND)
}

/// The text of 413 for a package.
pub fn too_large(most_bytes: usize) -> String {
    format!("the package is larger than {most_bytes} bytes (--max-package-size)")
}

/// What a check comes to within its time: a package, or all that is wrong with it.
///
/// # Errors
/// 400 for the form, 413; 503 once the time is over; 500 for a file that cannot be read.
pub fn check(
    form: &Form,
    body: Body<'_>,
    most_bytes: usize,
    limit: Duration,
) -> Result<Result<Checked, Vec<Problem>>, Error> {
    let until = Instant::now() + limit;
    match check_until(form, body, most_bytes, until) {
        Ok(Ok(checked)) => Ok(Ok(checked)),
        // What is wrong may be so only for want of time.
        _ if Instant::now() >= until => Err(Error::Unable(format!(
            "the check of the package took longer than {} seconds and was given up; a package with fewer files and a \
             shorter manifest takes less",
            limit.as_secs()
        ))),
        other => other,
    }
}

fn check_until(
    form: &Form,
    body: Body<'_>,
    most_bytes: usize,
    until: Instant,
) -> Result<Result<Checked, Vec<Problem>>, Error> {
    let Body { file, length } = body;
    let part = match form {
        Form::Plain => Part { at: 0, end: length },
        Form::Multipart { boundary } => multipart::find_file(file, length, boundary, until)?,
    };
    match part.length() {
        0 => return Err(Error::Malformed("empty package file".to_owned())),
        length if length > most_bytes as u64 => return Err(Error::TooLarge(too_large(most_bytes))),
        _ => {}
    }
    let package = match Package::from_archive(BufReader::new(part.reader(file, until))) {
        Ok(package) => package,
        Err(PackageError::Problems(problems)) => return Ok(Err(problems)),
        Err(PackageError::Read(error)) => return Err(error.into()),
    };
    let sha256 = sha256(part.reader(file, until))?;
    Ok(Ok(Checked { package, part, sha256 }))
}

/// Of all that can be read, in hex.
fn sha256(mut reader: impl Read) -> io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(sha256::hex(hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_given_up_when_its_time_is_over() {
        let path = std::env::temp_dir().join(format!("cloacina-check-{}", uuid::Uuid::new_v4()));
        for (bytes, form) in [
            (&b"no archive"[..], Form::Plain),
            (b"--b\r\nno form", Form::Multipart { boundary: b"b".to_vec() }),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let body = Body { file: &file, length: bytes.len() as u64 };
            let wrong = |limit| match check(&form, body, 1000, limit) {
                Ok(Ok(_)) => panic!("it is no package"),
                Ok(Err(problems)) => problems[0].to_string(),
                Err(error) => format!("{error:?}"),
            };
            let (late, in_time) = (wrong(Duration::ZERO), wrong(LIMIT));
            assert!(late.contains("took longer than 0 seconds"), "{late}");
            assert!(!in_time.contains("took longer"), "{in_time}");
        }
    }
}
