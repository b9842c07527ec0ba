//! The body of a request in chunks (RFC 9112, 7.1), decoded as its bytes arrive. Nothing in this file waits or does
//! input or output.

use super::error::Error;
use super::head::bad;

/// Bytes of one chunk-size line.
const CHUNK_LINE_LIMIT: usize = 256;
/// Bytes of all that is neither data nor needed to frame it, together: leading zeros of sizes, blanks, extensions (RFC
/// 9112, 7.1.1) and trailer lines.
const OVERHEAD_LIMIT: usize = 4 * 1024;
/// Bytes of data that allow one byte of it more: some clients pad every size with zeros.
const DATA_PER_OVERHEAD: usize = 64;

/// Decodes a chunked body (RFC 9112, 7.1) as its bytes arrive.
#[derive(Debug)]
pub struct Chunks {
    /// What was decoded so far, and not taken from here.
    pub body: Vec<u8>,
    /// Bytes that the body may have, and those that it is known to have.
    pub limit: usize,
    total: usize,
    /// Bytes of the current chunk that are still to come, its CR LF not counted.
    left: usize,
    in_chunk: bool,
    in_trailers: bool,
    overhead: usize,
}

impl Chunks {
    /// For a body of at most so many bytes.
    pub fn new(limit: usize) -> Chunks {
        let body = Vec::new();
        Chunks { body, limit, total: 0, left: 0, in_chunk: false, in_trailers: false, overhead: 0 }
    }

    /// Takes what it can from the start of `input`: how many bytes, and whether the body is now whole.
    ///
    /// # Errors
    /// 400 for a malformed chunk, 413 for a body over the limit.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, bool), Error> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            if self.in_chunk && self.left > 0 {
                if rest.is_empty() {
                    return Ok((taken, false));
                }
                let data = &rest[..self.left.min(rest.len())];
                self.body.extend_from_slice(data);
                self.left -= data.len();
                taken += data.len();
                continue;
            }
            if self.in_chunk {
                match rest {
                    [b'\r', b'\n', ..] => {
                        self.in_chunk = false;
                        taken += 2;
                        continue;
                    }
                    [] | [b'\r'] => return Ok((taken, false)),
                    _ => return Err(bad("malformed chunk: its data is not followed by CR LF")),
                }
            }
            let limit = if self.in_trailers { self.overhead_left() } else { CHUNK_LINE_LIMIT };
            let Some(line) = line(rest, limit)? else { return Ok((taken, false)) };
            taken += line.len() + 2;
            if self.in_trailers {
                if line.is_empty() {
                    return Ok((taken, true));
                }
                self.overhead += line.len() + 2;
                check_trailer(line)?;
                continue;
            }
            let (size, overhead) = chunk_size(line, self.limit)?;
            self.left = size;
            if overhead > self.overhead_left() {
                return Err(bad("malformed chunk: too many leading zeros or extensions"));
            }
            self.overhead += overhead;
            self.total += size;
            if self.total > self.limit {
                return Err(Error::ContentTooLarge(self.limit));
            }
            self.in_chunk = self.left > 0;
            self.in_trailers = self.left == 0;
        }
    }

    fn overhead_left(&self) -> usize {
        (OVERHEAD_LIMIT + self.total / DATA_PER_OVERHEAD).saturating_sub(self.overhead)
    }
}

/// The line at the start of `input` without its CR LF; `None` when it has not come whole.
fn line(input: &[u8], limit: usize) -> Result<Option<&[u8]>, Error> {
    let Some(end) = input.iter().take(limit).position(|byte| *byte == b'\n') else {
        return if input.len() < limit { Ok(None) } else { Err(bad("malformed chunk: a line is too long")) };
    };
    match input[..end].split_last() {
        Some((b'\r', line)) if !line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') => {
            Ok(Some(line))
        }
        _ => Err(bad("malformed chunk: a line does not end in CR LF or has control characters")),
    }
}

/// The size in a chunk-size line, and the bytes that are not needed to say it: leading zeros, and extensions, which are
/// allowed and ignored.
fn chunk_size(line: &[u8], limit: usize) -> Result<(usize, usize), Error> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = line[digits..].trim_ascii_start();
    if digits == 0 || !(extension.is_empty() || extension.starts_with(b";")) {
        return Err(bad("malformed chunk: its size is not hexadecimal"));
    }
    let size = line[..digits].iter().try_fold(0_usize, |size, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(size * 16 + usize::try_from(digit).ok()?).filter(|size| *size <= limit)
    });
    let leading_zeros = line[..digits - 1].iter().take_while(|byte| **byte == b'0').count();
    size.map(|size| (size, line.len() - digits + leading_zeros)).ok_or(Error::ContentTooLarge(limit))
}

/// A trailer is a field line that no handler reads; it still has to be one.
fn check_trailer(line: &[u8]) -> Result<(), Error> {
    let name_end = line.iter().position(|byte| *byte == b':').unwrap_or(0);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name_end == 0 || !line[..name_end].iter().all(token) {
        return Err(bad("malformed trailer field"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::BODY_LIMIT;

    /// Feeds a chunked body in pieces of each size; all must agree.
    fn chunked(input: &[u8]) -> Result<(Vec<u8>, usize), u16> {
        let whole = feed(input, input.len().max(1));
        for piece in 1..input.len().min(9) {
            assert_eq!(feed(input, piece), whole, "in pieces of {piece}: {}", String::from_utf8_lossy(input));
        }
        whole
    }

    fn feed(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize), u16> {
        let mut chunks = Chunks::new(BODY_LIMIT);
        let mut taken = 0;
        for end in (piece..).step_by(piece).map(|end| end.min(input.len())) {
            let (more, done) = chunks.take(&input[taken..end]).map_err(|error| error.response().status)?;
            taken += more;
            if done {
                return Ok((chunks.body, taken));
            }
            if end == input.len() {
                return Err(100);
            }
        }
        unreachable!()
    }

    #[test]
    fn chunks() {
        assert_eq!(chunked(b"3\r\nabc\r\n0\r\n\r\nGET"), Ok((b"abc".to_vec(), 13)));
        assert_eq!(
            chunked(b"1;x=y\r\na\r\nA \r\n0123456789\r\n00\r\nT: v\r\n\r\n"),
            Ok((b"a0123456789".to_vec(), 38))
        );
        for (input, expected) in [
            (&b"3\r\nabc"[..], 100),
            (b"0\r\n", 100),
            (b"\r\n", 400),
            (b"x\r\n", 400),
            (b"-1\r\n", 400),
            (b"0x3\r\nabc\r\n", 400),
            (b"3 3\r\nabc\r\n", 400),
            (b"3\nabc\r\n", 400),
            (b"3\r\nabcd\r\n", 400),
            (b"3\r\nabc\n0\r\n\r\n", 400),
            (b"3\r\nabcxx0\r\n\r\n", 400),
            (b"3\r\nabc\rx0\r\n\r\n", 400),
            (b"10001\r\n", 413),
            (b"ffffffffffffffffffff\r\n", 413),
            (b"0\r\nno field\r\n\r\n", 400),
            (b"0\r\n folded: x\r\n\r\n", 400),
        ] {
            assert_eq!(chunked(input), Err(expected), "{}", String::from_utf8_lossy(input));
        }
        let long_line = [b"1;", &[b'x'; CHUNK_LINE_LIMIT][..]].concat();
        assert_eq!(chunked(&long_line), Err(400));
        let extension = [b"1;", &[b'x'; 200][..], b"\r\na\r\n"].concat();
        let last = b"0\r\n\r\n";
        assert_eq!(
            feed(&[extension.repeat(20), last.to_vec()].concat(), 1000).map(|(body, _)| body.len()),
            Ok(20)
        );
        assert_eq!(feed(&[extension.repeat(21), last.to_vec()].concat(), 1000), Err(400));
        assert_eq!(
            feed(&[b"1\r\na\r\n".repeat(BODY_LIMIT), last.to_vec()].concat(), 5000)
                .map(|(body, _)| body.len()),
            Ok(BODY_LIMIT)
        );
        assert_eq!(feed(&b"1\r\na\r\n".repeat(BODY_LIMIT + 1), 5000), Err(413));
        let zeros = [&[b'0'; 200][..], b"1\r\na\r\n"].concat();
        assert_eq!(
            feed(&[zeros.repeat(20), last.to_vec()].concat(), 1000).map(|(body, _)| body.len()),
            Ok(20)
        );
        assert_eq!(feed(&[zeros.repeat(21), last.to_vec()].concat(), 1000), Err(400));
        let many_trailers = [b"0\r\n".to_vec(), b"T: v\r\n".repeat(OVERHEAD_LIMIT)].concat();
        assert_eq!(feed(&many_trailers, 1000), Err(400));
    }
}
