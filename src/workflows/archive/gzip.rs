//! What is in gzip data: one member or several behind each other, as gzip itself reads them, and nothing else.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::GzDecoder;

/// Each costs time even if there is nothing in it.
const MOST_MEMBERS: usize = 1_000;
/// Enough to tell a tar archive by.
const HEAD_BYTES: u64 = 512;

/// Why reading does not go on.
#[derive(Debug)]
pub enum Fault {
    /// What is wrong with the archive as a whole.
    Damaged(String),
    /// The archive itself could not be read.
    Read(io::Error),
}

pub struct Gunzip<R: Read> {
    /// `None` after the end.
    member: Option<GzDecoder<Source<R>>>,
    members: usize,
}

impl<R: Read> Gunzip<R> {
    /// # Errors
    /// It does not begin as gzip data do.
    pub fn new(mut reader: R) -> Result<Gunzip<R>, Fault> {
        let mut head = Vec::new();
        (&mut reader).take(HEAD_BYTES).read_to_end(&mut head).map_err(Fault::Read)?;
        if !head.starts_with(MAGIC) {
            return Err(Fault::Damaged(format!(
                "{}; a package is a tar archive that is compressed with gzip, as `workflow pack` and `tar -cz` \
                 make them",
                looks_like(&head)
            )));
        }
        let reader = BufReader::with_capacity(32 * 1024, Cursor::new(head).chain(reader));
        let source = Source { reader, bytes: 0, error: None };
        Ok(Gunzip { member: Some(GzDecoder::new(source)), members: 1 })
    }

    /// The next bytes; none only at the end of the last member, whose checksum is then right.
    ///
    /// # Errors
    /// The data are cut off or damaged, or are followed by something else.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        while let Some(member) = &mut self.member {
            match member.read(buffer) {
                Ok(0) => self.next_member()?,
                Ok(count) => return Ok(count),
                Err(error) => return Err(fault(error, member.get_mut())),
            }
        }
        Ok(0)
    }

    fn next_member(&mut self) -> Result<(), Fault> {
        let Some(mut source) = self.member.take().map(GzDecoder::into_inner) else { return Ok(()) };
        let at = source.bytes;
        let next = match source.fill_buf() {
            Ok(next) => next.first().copied(),
            Err(error) => return Err(fault(error, &mut source)),
        };
        match next {
            None => return Ok(()),
            Some(first) if first != MAGIC[0] => {
                return Err(Fault::Damaged(format!(
                    "has something else behind the end of its gzip data, from byte {at} on"
                )));
            }
            Some(_) => {}
        }
        self.members += 1;
        if self.members > MOST_MEMBERS {
            return Err(Fault::Damaged(format!("has more than {MOST_MEMBERS} gzip members")));
        }
        self.member = Some(GzDecoder::new(source));
        Ok(())
    }
}

const MAGIC: &[u8] = b"\x1f\x8b";

fn looks_like(head: &[u8]) -> String {
    const KNOWN: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a zip file"),
        (b"PK\x05\x06", "an empty zip file"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"BZh", "compressed with bzip2"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"\x1f\x9d", "compressed with compress"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file"),
        (b"Rar!", "a RAR file"),
        (b"[package]", "a manifest alone, without an archive around it"),
    ];
    match KNOWN.iter().find(|(start, _)| head.starts_with(start)) {
        _ if head.is_empty() => "is empty".to_owned(),
        Some((_, what)) => format!("is {what}"),
        None if head.get(257..262) == Some(b"ustar") => "is a tar archive without compression".to_owned(),
        None => format!("is not gzip data: it begins with `{}`", head[..head.len().min(16)].escape_ascii()),
    }
}

fn fault<R>(error: io::Error, source: &mut Source<R>) -> Fault {
    if let Some(error) = source.error.take() {
        return Fault::Read(error);
    }
    Fault::Damaged(match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("is cut off: its gzip data end early, at byte {}", source.bytes)
        }
        _ => format!("is damaged: its gzip data are wrong before byte {} ({error})", source.bytes),
    })
}

/// The compressed bytes. Its own errors are kept apart from those that the decoder finds.
struct Source<R> {
    reader: BufReader<io::Chain<Cursor<Vec<u8>>, R>>,
    bytes: u64,
    error: Option<io::Error>,
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.error = Some(error);
                    return Err(io::Error::other("not read"));
                }
            }
        }
        Ok(self.reader.buffer())
    }

    fn consume(&mut self, count: usize) {
        self.bytes += count as u64;
        self.reader.consume(count);
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}
