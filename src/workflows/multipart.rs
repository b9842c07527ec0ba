//! `multipart/form-data` (RFC 7578, RFC 2046) in a file: where the one field lies that is asked for. Strict where two parsers could
//! read a body in two ways; memory holds one window of it at a time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use memchr::memmem;

use crate::error::Error;

/// Characters of a boundary (RFC 2046, 5.1.1).
const LONGEST_BOUNDARY: usize = 70;
/// Bytes of all header lines of a part.
const HEADER_LIMIT: usize = 16 * 1024;
/// Parts of a body: each costs a search of its own.
const MOST_PARTS: usize = 100;
/// Bytes that are looked through at once.
const WINDOW: usize = 64 * 1024;
/// Blanks between a boundary and the end of its line.
const PADDING_LIMIT: usize = 256;

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub at: u64,
    /// Behind the last byte.
    pub end: u64,
}

impl Part {
    pub fn length(self) -> u64 {
        self.end - self.at
    }

    /// Reads it from its start, whatever the file's own position is. From `until` on every read fails, so that what is made
    /// of the bytes ends too.
    pub fn reader(self, file: &File, until: Instant) -> PartReader<'_> {
        PartReader { file, left: self, until }
    }
}

pub struct PartReader<'a> {
    file: &'a File,
    left: Part,
    until: Instant,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let most = usize::try_from(self.left.length()).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.left.at)?;
        self.left.at += count as u64;
        Ok(count)
    }
}

/// The boundary that a `Content-Type: multipart/form-data` names.
///
/// # Errors
/// 400: it names none, or none that can be one.
pub fn boundary(parameters: &str) -> Result<Vec<u8>, Error> {
    let boundary = parse_parameters(parameters)
        .and_then(|all| single(&all, "boundary"))
        .ok_or_else(|| malformed("its Content-Type names no boundary"))?;
    let is_allowed = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    let is_right = (1..=LONGEST_BOUNDARY).contains(&boundary.len())
        && boundary.bytes().all(is_allowed)
        && !boundary.ends_with(' ');
    match is_right {
        true => Ok(boundary.into_bytes()),
        false => Err(malformed("its boundary must have 1 to 70 visible ASCII characters")),
    }
}

/// Finds the content of the field `file` in the first `length` bytes of a file. The whole body is looked at.
///
/// # Errors
/// 400 with what is wrong; 500: the file cannot be read, or it is `until`.
pub fn find_file(file: &File, length: u64, boundary: &[u8], until: Instant) -> Result<Part, Error> {
    let mut body = Body { file, length, until, window: Vec::with_capacity(WINDOW) };
    let delimiter = [b"\r\n--", boundary].concat();
    let finder = memmem::Finder::new(&delimiter);
    let mut found = None;
    // The first one may stand at the very beginning, without the line end that belongs to all others.
    let mut after = match *body.bytes(0, delimiter.len() - 2)? == delimiter[2..] {
        true => delimiter.len() as u64 - 2,
        false => match body.find(0, &finder)? {
            Some(at) => at + delimiter.len() as u64,
            None => return Err(no_file()),
        },
    };
    for _ in 0..=MOST_PARTS {
        let Some(header_at) = header_start(&mut body, after)? else {
            return found.ok_or_else(no_file);
        };
        let (name, content_at) = header(&mut body, header_at, &finder)?;
        // An empty part may share one line end with its header.
        let end = body.find(content_at - 2, &finder)?.ok_or_else(unfinished)?;
        if name == "file" && found.replace(Part { at: content_at, end: end.max(content_at) }).is_some() {
            return Err(malformed("it has more than one 'file' field"));
        }
        after = end + delimiter.len() as u64;
    }
    Err(malformed(&format!("it has more than {MOST_PARTS} parts")))
}

/// Where the header of a part begins whose boundary ends at `after`; `None`: that was the closing one.
fn header_start(body: &mut Body<'_>, after: u64) -> Result<Option<u64>, Error> {
    let line = body.bytes(after, PADDING_LIMIT)?;
    if line.starts_with(b"--") {
        return Ok(None);
    }
    let padding = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match &line[padding..] {
        [b'\r', b'\n', ..] => Ok(Some(after + padding as u64 + 2)),
        rest if rest.len() < 2 && line.len() < PADDING_LIMIT => Err(unfinished()),
        _ => Err(malformed("a boundary is not at the end of its line")),
    }
}

/// The name of the part whose header begins there, and where its content begins.
fn header(body: &mut Body<'_>, at: u64, delimiter: &memmem::Finder<'_>) -> Result<(String, u64), Error> {
    // With the line end before it, so that a header without lines has its end too.
    let text = body.bytes(at - 2, HEADER_LIMIT)?;
    let Some(end) = memmem::find(text, b"\r\n\r\n") else {
        return Err(match text.len() < HEADER_LIMIT {
            true => unfinished(),
            false => malformed(&format!("the header of a part is larger than {HEADER_LIMIT} bytes")),
        });
    };
    let content_at = at - 2 + end as u64 + 4;
    let text = &text[..end];
    if delimiter.find(text).is_some() {
        return Err(malformed("the header of a part does not end"));
    }
    let text = std::str::from_utf8(text).map_err(|_| malformed("the header of a part is not UTF-8"))?;
    let lines = text.replace("\r\n\t", " ").replace("\r\n ", " ");
    let mut name = None;
    for line in lines.split("\r\n").filter(|line| !line.is_empty()) {
        if line.contains(['\r', '\n', '\0']) {
            return Err(malformed("a line of a part's header does not end in CR LF"));
        }
        let (field, value) =
            line.split_once(':').ok_or_else(|| malformed("a line of a part's header has no colon"))?;
        if field.eq_ignore_ascii_case("content-disposition") {
            if name.is_some() {
                return Err(malformed("a part has more than one Content-Disposition"));
            }
            name = Some(field_name(value).ok_or_else(|| {
                malformed("the Content-Disposition of a part is not `form-data; name=\"…\"`")
            })?);
        } else if field.eq_ignore_ascii_case("content-transfer-encoding") {
            let is_plain =
                ["7bit", "8bit", "binary"].iter().any(|one| value.trim().eq_ignore_ascii_case(one));
            if !is_plain {
                return Err(malformed("a part has a Content-Transfer-Encoding, which is not undone"));
            }
        }
    }
    let name = name.ok_or_else(|| malformed("a part has no Content-Disposition"))?;
    Ok((name, content_at))
}

/// The name in a `Content-Disposition` (RFC 7578, 4.2).
fn field_name(value: &str) -> Option<String> {
    let (kind, parameters) = value.split_once(';')?;
    let all = parse_parameters(parameters).filter(|_| kind.trim().eq_ignore_ascii_case("form-data"))?;
    single(&all, "name")
}

/// The value of a parameter that must stand once.
fn single(parameters: &[(String, String)], wanted: &str) -> Option<String> {
    let mut values = parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let (_, value) = values.next()?;
    values.next().is_none().then(|| value.clone())
}

/// What follows the first `;` of a field: `name=value`, also in quotes. An unquoted value goes to the next `;`: some
/// programs write characters there that would have to be quoted.
fn parse_parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        if name.is_empty() || name.contains([';', '"']) {
            return None;
        }
        let value;
        (value, rest) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = unquoted(quoted)?;
                (value, after.trim_start())
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name.to_owned(), value));
        rest = match rest.strip_prefix(';') {
            Some(next) => next.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(found)
}

/// A quoted value and what follows its end. A backslash stands for itself but before a quote or another one: file names of
/// Windows have some.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push(character),
            },
            _ => value.push(character),
        }
    }
    None
}

struct Body<'a> {
    file: &'a File,
    length: u64,
    until: Instant,
    /// What was read last.
    window: Vec<u8>,
}

impl Body<'_> {
    /// So many bytes from there on, or what there are.
    fn bytes(&mut self, at: u64, most: usize) -> io::Result<&[u8]> {
        let part = Part { at: at.min(self.length), end: self.length };
        self.window.clear();
        part.reader(self.file, self.until).take(most as u64).read_to_end(&mut self.window)?;
        Ok(&self.window)
    }

    /// Where this stands first, from there on.
    fn find(&mut self, from: u64, wanted: &memmem::Finder<'_>) -> io::Result<Option<u64>> {
        let mut at = from;
        loop {
            let window = self.bytes(at, WINDOW)?;
            if let Some(found) = wanted.find(window) {
                return Ok(Some(at + found as u64));
            }
            if window.len() < WINDOW {
                return Ok(None);
            }
            // It may have begun at the end of this window.
            at += (WINDOW - wanted.needle().len() + 1) as u64;
        }
    }
}

fn malformed(what: &str) -> Error {
    Error::Malformed(format!("the multipart request is malformed: {what}"))
}

fn unfinished() -> Error {
    malformed("it ends before its closing boundary")
}

fn no_file() -> Error {
    Error::Malformed("no 'file' field in multipart request".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    /// A file with these bytes that has no name any more.
    fn file(bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("cloacina-multipart-{}", uuid::Uuid::new_v4()));
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The field's content, or the text of the error.
    fn found(body: &[u8], boundary: &str) -> Result<Vec<u8>, String> {
        let file = file(body);
        let until = Instant::now() + Duration::from_secs(60);
        match find_file(&file, body.len() as u64, boundary.as_bytes(), until) {
            Ok(part) => {
                let mut content = Vec::new();
                part.reader(&file, until).read_to_end(&mut content).unwrap();
                assert_eq!(content.len() as u64, part.length());
                Ok(content)
            }
            Err(Error::Malformed(line)) => Err(line),
            Err(other) => panic!("{other:?}"),
        }
    }

    const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.tar.gz\"\r\n";

    fn one(content: &str) -> String {
        format!("--b\r\n{FILE}\r\n{content}\r\n--b--\r\n")
    }

    #[test]
    fn the_field_is_found_however_it_is_written() {
        let disposition = |text: &str| format!("--b\r\nContent-Disposition: {text}\r\n\r\nx\r\n--b--");
        for (body, expected) in [
            (one("x"), "x"),
            (one(""), ""),
            (one("a\r\nb\n--b\r--b\r\n-b\r\n--a"), "a\r\nb\n--b\r--b\r\n-b\r\n--a"),
            // Without its own line end, and without that of the closing boundary.
            (format!("--b\r\n{FILE}\r\n--b--"), ""),
            (format!("--b\r\n{FILE}\r\nx\r\n--b--"), "x"),
            (
                format!(
                    "a preamble\r\n--bee\r\n\r\n{}",
                    one("x").replace("--b", "--b\t ").replace("\t --", "--")
                )
                .replace("--bee\r\n\r\n", ""),
                "x",
            ),
            (one("x") + "an epilogue\r\n--b\r\nof any form", "x"),
            (
                format!("--b\r\nContent-Disposition: form-data; name=other\r\n\r\n1\r\n{}", one("x"))
                    .replace(
                        "--b--",
                        "--b\r\nContent-Disposition: form-data; name=\"last\"\r\n\r\n2\r\n--b--",
                    ),
                "x",
            ),
            (disposition("form-data; name=\"file\""), "x"),
            (disposition("form-data; name=file"), "x"),
            (disposition("FORM-DATA;  NAME = \"file\" ; filename=\"a;b\\\"name=c.gz\""), "x"),
            (disposition("form-data;\r\n name=\"file\""), "x"),
            (disposition("form-data; filename=\"C:\\x\\\"; name=\"file\"").replace("\\\";", "\\y\";"), "x"),
            (disposition("form-data; name=\"file\"\r\ncontent-transfer-encoding: BINARY"), "x"),
        ] {
            assert_eq!(found(body.as_bytes(), "b").unwrap(), expected.as_bytes(), "{body}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        let part = |header: &str| format!("--b\r\n{header}\r\n\r\nx\r\n--b--\r\n");
        let other = "Content-Disposition: form-data; name=\"other\"";
        for (body, expected) in [
            (String::new(), "no 'file' field"),
            ("--b--\r\n".to_owned(), "no 'file' field"),
            ("--a\r\n".to_owned(), "no 'file' field"),
            (part(other), "no 'file' field"),
            (one("x").replace("--b--\r\n", ""), "ends before its closing boundary"),
            (one("x").replace("--b--\r\n", "--b"), "ends before its closing boundary"),
            (one("x").replace("--b--\r\n", "--b\r\n"), "ends before its closing boundary"),
            (one("x").replace("\r\n--b--", ""), "ends before its closing boundary"),
            (one("x\r\n--bx"), "not at the end of its line"),
            (one("x\r\n--b-"), "not at the end of its line"),
            (one("x").replace("--b--\r\n", "") + &one("y"), "more than one 'file' field"),
            (part("A: b"), "no Content-Disposition"),
            (part(&format!("{other}\r\n{other}")), "more than one Content-Disposition"),
            (part("Content-Disposition: attachment; name=\"file\""), "is not `form-data; name="),
            (part("Content-Disposition: form-data; name=\"file"), "is not `form-data; name="),
            (part("Content-Disposition: form-data; name=\"file\"; name=\"x\""), "is not `form-data; name="),
            (part("Content-Disposition: form-data; name=\"file\" x"), "is not `form-data; name="),
            (part(&format!("{other}\r\nx")), "has no colon"),
            (part(&format!("{other}\nA: b")), "does not end in CR LF"),
            (part("Content-Disposition: form-data; name=\"\u{e9}\"\r\nA: \r"), "does not end in CR LF"),
            (part(&format!("{other}\r\nContent-Transfer-Encoding: base64")), "Content-Transfer-Encoding"),
            (format!("--b\r\n{FILE}--b--\r\n\r\n"), "does not end"),
            (part(&format!("{other}\r\nA: {}", "x".repeat(20_000))), "is larger than 16384 bytes"),
            (one("x").replace("\r\n", "\n"), "not at the end of its line"),
        ] {
            let error = found(body.as_bytes(), "b").unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
        }
        assert!(found(b"--b\r\nContent-Disposition: \xff\r\n\r\n", "b").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_form_has_so_many_parts() {
        let other = "--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n";
        assert_eq!(found((other.repeat(MOST_PARTS - 1) + &one("x")).as_bytes(), "b"), Ok(b"x".to_vec()));
        let error = found((other.repeat(MOST_PARTS) + &one("x")).as_bytes(), "b").unwrap_err();
        assert!(error.ends_with("it has more than 100 parts"), "{error}");
    }

    #[test]
    fn nothing_is_read_once_its_time_is_over() {
        let body = one("x");
        let file = file(body.as_bytes());
        let error = find_file(&file, body.len() as u64, b"b", Instant::now()).unwrap_err();
        assert!(matches!(error, Error::Internal(_)), "{error:?}");
        let error = Part { at: 0, end: 1 }.reader(&file, Instant::now()).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_boundary_is_found_wherever_a_window_ends() {
        let boundary = "x".repeat(70);
        for length in (WINDOW - 200..WINDOW + 200).chain([2 * WINDOW, 3 * WINDOW + 7]) {
            let content = vec![b'\r'; length];
            let mut body = format!("--{boundary}\r\n{FILE}\r\n").into_bytes();
            body.extend_from_slice(&content);
            body.extend_from_slice(format!("\r\n--{boundary}--").as_bytes());
            assert!(found(&body, &boundary).unwrap() == content, "{length}");
        }
    }

    #[test]
    fn boundaries_as_programs_write_them() {
        for (right, expected) in [
            (
                " boundary=------------------------d74496d66958873e",
                "------------------------d74496d66958873e",
            ),
            (" boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", "----WebKitFormBoundary7MA4YWxkTrZu0gW"),
            (" boundary=\"----=_Part_1 (2)\"", "----=_Part_1 (2)"),
            ("boundary=----=_Part_3; charset=utf-8", "----=_Part_3"),
            (" charset=utf-8; BOUNDARY=a", "a"),
            (" boundary=\"a\\\"b\"", "a\"b"),
        ] {
            assert_eq!(boundary(right).unwrap(), expected.as_bytes(), "{right}");
        }
        let long = format!("boundary={}", "x".repeat(71));
        for wrong in [
            "",
            "boundary",
            "boundary=",
            "boundary=\"\"",
            "boundary=\"a",
            "boundary=\"a \"",
            &long,
            "boundary=a; boundary=b",
            "charset=x",
        ] {
            assert!(matches!(boundary(wrong), Err(Error::Malformed(_))), "{wrong}");
        }
    }

    /// Forms as clients make them, of which the answer is known, and then with changes at random: nothing panics, and what
    /// is found is a stretch of the body without a boundary in it. `scripts/fuzz.sh` runs it.
    #[test]
    #[ignore = "for as long as CLOACINA_FUZZ_SECONDS says"]
    fn forms_at_random() {
        const PIECES: &[&str] = &[
            "\r\n", "--", "--b", "\r\n--b", "--b--", "b", "x", "\r", "\n", "\0", "\u{e9}", ": ", "\"", ";",
            "name=", "file", FILE,
        ];
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
        let until = Instant::now() + Duration::from_secs(number("CLOACINA_FUZZ_SECONDS").unwrap_or(60));
        let mut state: u64 =
            number("CLOACINA_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id())) | 1;
        println!("seed {state}");
        let mut below = move |most: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap() % most.max(1)
        };
        let (mut all, mut known, mut changed) = (0_u64, 0_u64, 0_u64);
        while Instant::now() < until {
            all += 1;
            let mut text =
                |most: usize| (0..below(most)).map(|_| PIECES[below(PIECES.len())]).collect::<String>();
            let mut body = if text(3).is_empty() { String::new() } else { "preamble\r\n".to_owned() };
            let mut files = Vec::new();
            for _ in 0..text(5).len() % 5 {
                let content = text(8);
                if format!("\r\n{content}\r\n").contains("\r\n--b") {
                    continue;
                }
                let is_file = text(4).len() % 2 == 0;
                let header =
                    if is_file { FILE } else { "Content-Disposition: form-data; name=\"other\"\r\n" };
                body += &format!("--b\r\n{header}\r\n{content}\r\n");
                files.extend(is_file.then_some(content));
            }
            body += "--b--\r\n";
            let result = found(body.as_bytes(), "b");
            match files.as_slice() {
                [one] => assert_eq!(result.as_deref(), Ok(one.as_bytes()), "{body:?}"),
                _ => assert!(result.is_err(), "{body:?}"),
            }
            known += 1;
            let mut bytes = body.into_bytes();
            for _ in 0..=below(4) {
                let (at, other) = (below(bytes.len()), below(bytes.len()));
                match below(4) {
                    0 => bytes[at] = PIECES[below(PIECES.len())].as_bytes()[0],
                    1 => drop(bytes.drain(at.min(other)..at.max(other))),
                    2 => drop(bytes.splice(at..at, PIECES[below(PIECES.len())].bytes())),
                    _ => bytes.truncate(at),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            if let Ok(content) = found(&bytes, "b") {
                changed += 1;
                assert!(memmem::find(&content, b"\r\n--b").is_none(), "{bytes:?}");
                assert!(memmem::find(&bytes, &content).is_some(), "{bytes:?}");
            }
        }
        println!("{all} forms, {known} as they should be; of the changed ones {changed} had a file");
        assert!(changed * 100 > all, "too few are accepted to tell anything");
    }
}
