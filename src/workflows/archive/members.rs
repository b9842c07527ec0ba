//! The entries of a tar archive, read block by block: two programs must not be able to read one archive in two ways, and
//! the entries of the crate `tar` no longer show what could be read so.

use std::io::Read;

use tar::Header;

use super::gzip::{Fault, Gunzip};
use super::pax::Records;
use super::tree::{Entry, Kind};

const BLOCK_BYTES: usize = 512;
/// Files, links and directories, as the first tar had them.
const OLDEST_KINDS: &[u8] = &[0, b'0', b'1', b'2', b'5'];
/// Of names, targets and extended headers, of all entries together. What entries contain is counted in `tree`.
const MOST_EXTENSION_BYTES: u64 = 64 << 20;
const MOST_EXTENSION: u64 = 1 << 20;
const MOST_GLOBAL_HEADERS: usize = 100;
/// Behind the end, where programs fill up the last record of the tape.
const MOST_ZEROS: u64 = 1 << 20;

/// Why the archive cannot be read any further: at which entry, and what is wrong there.
#[derive(Debug)]
pub struct Stopped {
    pub name: Option<Vec<u8>>,
    pub fault: Fault,
}

pub struct Members<R: Read> {
    source: Gunzip<R>,
    /// Of the current entry.
    content_left: u64,
    padding: u64,
    extension_bytes: u64,
    global_headers: usize,
}

/// What the headers before an entry's own say of it.
#[derive(Default)]
struct Extensions {
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pax: Option<Records>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.gnu_name.is_none() && self.gnu_link.is_none() && self.pax.is_none()
    }
}

impl<R: Read> Members<R> {
    pub fn new(source: Gunzip<R>) -> Members<R> {
        Members { source, content_left: 0, padding: 0, extension_bytes: 0, global_headers: 0 }
    }

    /// The next entry; what is left of the one before is passed over. `None` when all of the archive has been read.
    ///
    /// # Errors
    /// It is damaged, cut off, or may be read in two ways.
    pub fn next(&mut self) -> Result<Option<Entry>, Stopped> {
        let whole = |fault| Stopped { name: None, fault };
        let mut extensions = Extensions::default();
        loop {
            self.pass_over().map_err(whole)?;
            let mut header = Header::new_old();
            self.fill(header.as_mut_bytes()).map_err(whole)?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                if !extensions.is_empty() {
                    return Err(whole(damaged(
                        "ends with a name or an extended header that no entry follows",
                    )));
                }
                return self.end().map(|()| None).map_err(whole);
            }
            let name = header.path_bytes().into_owned();
            let stopped = |fault| Stopped { name: Some(name.clone()), fault };
            let size = checked_size(&header).map_err(|message| stopped(damaged(message)))?;
            (self.content_left, self.padding) = (size, size.wrapping_neg() % BLOCK_BYTES as u64);
            match header.entry_type().as_byte() {
                kind @ (b'L' | b'K' | b'x' | b'g') => {
                    let bytes = self.extension(size).map_err(stopped)?;
                    self.extend(&mut extensions, kind, bytes).map_err(|message| stopped(damaged(message)))?;
                }
                _ => {
                    return entry(&header, extensions, size)
                        .map(Some)
                        .map_err(|message| Stopped { name: Some(name), fault: damaged(message) });
                }
            }
        }
    }

    /// The next bytes of the current entry; none at its end.
    ///
    /// # Errors
    /// The archive is damaged or cut off.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let most = usize::try_from(self.content_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(cut_off());
        }
        self.content_left -= count as u64;
        Ok(count)
    }

    fn pass_over(&mut self) -> Result<(), Fault> {
        let mut buffer = [0; 8 * 1024];
        while self.read(&mut buffer)? > 0 {}
        let padding = std::mem::take(&mut self.padding);
        self.fill(&mut buffer[..usize::try_from(padding).unwrap_or(0)])
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Fault> {
        while !buffer.is_empty() {
            match self.source.read(buffer)? {
                0 => return Err(cut_off()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        self.extension_bytes += size.min(MOST_EXTENSION_BYTES);
        if size > MOST_EXTENSION || self.extension_bytes > MOST_EXTENSION_BYTES {
            return Err(damaged(
                "has extended headers of more than 1 MiB, or the archive of more than 64 MiB",
            ));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.fill(&mut bytes)?;
        self.content_left = 0;
        Ok(bytes)
    }

    fn extend(&mut self, extensions: &mut Extensions, kind: u8, bytes: Vec<u8>) -> Result<(), &'static str> {
        let is_second = match kind {
            b'L' => extensions.gnu_name.replace(without_end(bytes)?).is_some(),
            b'K' => extensions.gnu_link.replace(without_end(bytes)?).is_some(),
            b'x' => extensions.pax.replace(Records::parse(&bytes)?).is_some(),
            _ => {
                self.global_headers += 1;
                if self.global_headers > MOST_GLOBAL_HEADERS || !Records::parse(&bytes)?.is_empty() {
                    return Err("is a global header that names, links or sizes entries, or one of too many");
                }
                false
            }
        };
        if is_second {
            Err("comes after two names, targets or extended headers for one entry")
        } else {
            Ok(())
        }
    }

    /// Behind the first block of zeros there is a second one, and nothing else up to the end of the gzip data.
    fn end(&mut self) -> Result<(), Fault> {
        let mut buffer = [0; 8 * 1024];
        self.fill(&mut buffer[..BLOCK_BYTES])?;
        let mut zeros = 0;
        loop {
            if buffer.iter().any(|byte| *byte != 0) {
                return Err(damaged("has something behind the end of its tar data"));
            }
            if zeros > MOST_ZEROS {
                return Err(damaged("has more than 1 MiB of zeros behind the end of its tar data"));
            }
            match self.source.read(&mut buffer)? {
                0 => return Ok(()),
                count => zeros += count as u64,
            }
        }
    }
}

fn damaged(message: &str) -> Fault {
    Fault::Damaged(message.to_owned())
}

fn cut_off() -> Fault {
    damaged("is cut off: its tar data end before the two blocks of zeros that mark their end")
}

/// GNU tar ends a long name with a NUL.
fn without_end(mut bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    if bytes.pop_if(|last| *last == 0).is_none() || bytes.contains(&0) {
        return Err("is a long name that does not end with its only NUL");
    }
    Ok(bytes)
}

/// The size of a header that is whole.
fn checked_size(header: &Header) -> Result<u64, &'static str> {
    let old = header.as_old();
    let bytes = header.as_bytes();
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = old.cksum.iter().map(|byte| u64::from(*byte)).sum();
    if number(&old.cksum) != Some(sum - own + 8 * u64::from(b' ')) {
        return Err("has a header with a wrong checksum: the archive is damaged, or no tar archive");
    }
    if header.as_ustar().is_none() && header.as_gnu().is_none() && !OLDEST_KINDS.contains(&old.linkflag[0]) {
        return Err("is of a kind that only newer tar formats have, in a header of the oldest one");
    }
    // Where ustar has the rest of a name, others have what only backups in several parts need; some programs read a name
    // there all the same.
    let end_of_name = if header.as_ustar().is_some() { 500 } else { 345 };
    if bytes[end_of_name..].iter().any(|byte| *byte != 0) {
        return Err("has fields that only incremental, sparse or divided archives have, or those of star");
    }
    // Owner, group, time and device mean nothing here, but some programs take a header that they are wrong in for the end.
    let meaningless = [&old.uid[..], &old.gid, &old.mtime, &bytes[329..337], &bytes[337..345]];
    let is_number = |field: &[u8]| matches!(field[0], 0x80 | 0xff) || number(field).is_some();
    if !meaningless.into_iter().all(|field| field.iter().all(|byte| *byte == b' ') || is_number(field)) {
        return Err("has an owner, a group, a time or a device that is no number");
    }
    number(&old.size).ok_or("has a size that is negative, too large or no number")
}

/// Octal digits between spaces and NULs, or GNU tar's form for large numbers.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        let value = low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        return high.iter().all(|byte| *byte == 0).then_some(value);
    }
    let is_space = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| *byte != b' ')?;
    let digits = field[start..].split(is_space).next()?;
    if !field[start + digits.len()..].iter().all(is_space) {
        return None;
    }
    let digit = |value: u64, byte: &u8| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    digits.iter().try_fold(0, digit)
}

fn entry(header: &Header, extensions: Extensions, size: u64) -> Result<Entry, &'static str> {
    let pax = extensions.pax.unwrap_or_default();
    if pax.size.is_some_and(|pax_size| pax_size != size) {
        return Err("has one size in its header and another one in its extended header");
    }
    let only = |pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>| match (pax, gnu) {
        (Some(_), Some(_)) => {
            Err("has two long names or targets, in GNU tar's form and in an extended header")
        }
        (pax, gnu) => Ok(pax.or(gnu)),
    };
    let name = only(pax.path, extensions.gnu_name)?.unwrap_or_else(|| header.path_bytes().into_owned());
    let target = only(pax.link, extensions.gnu_link)?
        .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
    let other = |what| Kind::Other { what, size };
    let kind = match header.entry_type().as_byte() {
        b'0' | 0 if pax.is_sparse => other("a sparse file, which tar writes with --sparse"),
        b'0' | 0 => Kind::File { size },
        b'1' => Kind::HardLink { target },
        b'2' => Kind::Symlink { target },
        b'3' => other("a character device"),
        b'4' => other("a block device"),
        b'5' => Kind::Directory,
        b'6' => other("a named pipe"),
        // Its map of holes, where it is empty.
        b'S' => other("a sparse file, which tar writes with --sparse"),
        _ => other("of a kind that packages do not have"),
    };
    if size > 0 && b"123456".contains(&header.entry_type().as_byte()) {
        return Err("is a link, a directory, a device or a pipe, and has content");
    }
    let mode = number(&header.as_old().mode).and_then(|mode| u32::try_from(mode).ok());
    Ok(Entry { name, kind, mode: mode.ok_or("has a mode that is no number")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_large() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"    644 ", Some(0o644)),
            (b"644 \0\0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777 ", Some((1 << 33) - 1)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"+1\0\0\0\0\0\0", None),
            (b"8\0\0\0\0\0\0\0", None),
            (b"64\x004\0\0\0\0", None),
            (b"        ", None),
        ] {
            assert_eq!(number(field), value, "{}", field.escape_ascii());
        }
    }
}
