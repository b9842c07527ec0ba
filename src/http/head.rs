//! What counts as a whole, small and well-formed request (RFC 9112), and its plain form for tiny_http. Everything
//! that two parsers could read in two ways is refused here; nothing in this file waits or does input or output.

use std::cell::Cell;

use super::error::Error;
use super::fields::{Body, Fields, is_plain_id};
use super::request::{Request, RequestInfo};
use super::target::{self, TARGET_LIMIT};

/// Bytes of request line and field lines together.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// Field lines.
pub const FIELD_LIMIT: usize = 64;
/// Bytes of body, decoded.
pub const BODY_LIMIT: usize = 64 * 1024;
/// Bytes of an `Authorization` field in a head that is too large: more than this is no key, so the answer is 401. A
/// proxy that asks about the key would make an error of its own of any 4xx but 401 and 403.
const AUTHORIZATION_LIMIT: usize = 8 * 1024;
/// The first byte of a TLS connection (RFC 8446, 5.1: a record of the type handshake), and of no request.
const TLS_HANDSHAKE: u8 = 0x16;
/// Empty lines before a request line (RFC 9112, 2.2 asks for at least one).
const EMPTY_LINES_LIMIT: usize = 2;

/// A head that passed, and how its body is framed.
#[derive(Debug)]
pub struct Head {
    /// One of a small fixed set, for labels; `OTHER_METHOD` for any that is none of HTTP's.
    pub method: &'static str,
    /// Path and, after a `?`, the query; never the authority of an absolute-form target.
    pub target: String,
    /// The target was `https://…`, so that the connection has to be a secured one (RFC 9110, 7.4).
    pub is_https: bool,
    pub body: Body,
    /// Whether the connection may go on after the answer (RFC 9112, 9.3).
    pub keep_alive: bool,
    /// HTTP/1.0: it has to be told when the connection goes on.
    pub is_1_0: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The client's own `X-Request-Id`, if it is a plain one.
    pub request_id: Option<String>,
    /// `X-Forwarded-For`: a list, which may be spread over several lines (RFC 9110, 5.3).
    pub forwarded_for: Option<String>,
    /// The field lines that handlers read, as they came; `None` also for one that came twice.
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub if_none_match: Option<String>,
    /// Empty where it came twice, or has more than visible ASCII.
    pub idempotency_key: Option<String>,
    /// The body has a coding (RFC 9110, 8.4), which no handler undoes.
    pub has_content_coding: bool,
}

impl Head {
    /// The path alone.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The request as a handler sees it.
    pub fn request<'a>(&'a self, info: &'a RequestInfo, body: &'a [u8]) -> Request<'a> {
        Request {
            id: &info.request_id,
            path: self.path(),
            query: self.target.split_once('?').map(|(_, query)| query),
            authorization: self.authorization.as_deref(),
            content_type: self.content_type.as_deref(),
            has_content_coding: self.has_content_coding,
            body,
            if_none_match: self.if_none_match.as_deref(),
            idempotency_key: self.idempotency_key.as_deref(),
            upload: Cell::new(None),
            client: info.client,
            deadline: info.deadline,
        }
    }

    /// The request in the one form that tiny_http is ever given: origin-form target, HTTP/1.1, and nothing but what
    /// frames it, a `Content-Length` that is true.
    pub fn plain_request(&self, body: &[u8]) -> Vec<u8> {
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let head = format!("{} {} HTTP/1.1\r\n{length}\r\n", self.method, self.target);
        [head.as_bytes(), body].concat()
    }
}

/// Reads a head from the start of `input`; `None` when more bytes are needed. The number is how many bytes it took.
///
/// # Errors
/// The answer for a head that is malformed, too large, or asks for what we do not do. The connection cannot go on.
pub fn read_head(input: &[u8]) -> Result<Option<(Head, usize)>, Error> {
    if input.first() == Some(&TLS_HANDSHAKE) {
        return Err(Error::TlsOnPlainPort);
    }
    let skipped = empty_lines(input)?;
    let input = &input[skipped..];
    let read = parse(input).or_else(|error| adapted(input).map_or(Err(error), |adapted| parse(&adapted)))?;
    Ok(read.map(|(head, length)| (head, skipped + length)))
}

fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, Error> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
        Ok(httparse::Status::Partial) if input.len() < HEAD_LIMIT => {
            refuse_bare_line_ends(input)?;
            return Ok(None);
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(too_large(input)),
        Err(error) => return Err(malformed(error, input)),
    };
    refuse_bare_line_ends(&input[..length])?;
    let head =
        check(request.method.unwrap_or(""), request.path.unwrap_or(""), request.version, request.headers)?;
    Ok(Some((head, length)))
}

/// A copy of a head, and of what follows, that is only malformed for the parser; `None` where it would be the same. A
/// later minor version of HTTP/1 is served as 1.1 (RFC 9110, 2.5). Control characters in an `Authorization` value make
/// that value malformed, not the request (RFC 9110, 5.5); a byte stands in for them that no handler takes.
fn adapted(input: &[u8]) -> Option<Vec<u8>> {
    let mut copy = input[..input.len().min(HEAD_LIMIT)].to_vec();
    let mut lines = copy.split_mut(|byte| *byte == b'\n');
    let mut changed = false;
    let request_line = lines.next().unwrap_or_default();
    let version_end = request_line.trim_ascii_end().len();
    if let Some((minor @ b'2'..=b'9', before)) = request_line[..version_end].split_last_mut()
        && before.ends_with(b" HTTP/1.")
    {
        *minor = b'1';
        changed = true;
    }
    for line in lines {
        let is_authorization = value_of(line, "authorization").is_some();
        for byte in line.iter_mut().filter(|byte| is_authorization && is_control(**byte)) {
            *byte = 0xff;
            changed = true;
        }
    }
    changed.then_some(copy)
}

/// A control character that is neither a blank nor a line end, both of which mean something.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n')
}

/// Which part of a head is too large.
fn too_large(input: &[u8]) -> Error {
    let line = input.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    match line.split(|byte| *byte == b' ').nth(1) {
        None => UNKNOWN_METHOD,
        Some(target) if target.len() > TARGET_LIMIT => Error::UriTooLong,
        Some(_)
            if raw_field(input, "authorization").is_some_and(|value| value.len() > AUTHORIZATION_LIMIT) =>
        {
            Error::MalformedAuthorization
        }
        Some(_) => Error::HeadTooLarge,
    }
}

/// The answer to a method that no server is known to have (RFC 9110, 9.1).
pub const UNKNOWN_METHOD: Error = Error::NotImplemented("unknown method");

/// Whether a request whose head is not, or need not be, well-formed is HEAD: its answer has no content, errors
/// included (RFC 9110, 9.3.2).
pub fn is_head(input: &[u8]) -> bool {
    input.trim_ascii_start().starts_with(b"HEAD ")
}

/// The client's own id of such a request: its answer is worth finding, too.
pub fn request_id(input: &[u8]) -> Option<String> {
    let value = raw_field(input, "x-request-id")?;
    is_plain_id(value).then(|| String::from_utf8_lossy(value).into_owned())
}

/// The value of the first field line of that name.
fn raw_field<'a>(input: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let lines = input[..input.len().min(HEAD_LIMIT)].split(|byte| *byte == b'\n');
    let mut fields = lines.skip(1).take_while(|line| !line.trim_ascii().is_empty());
    fields.find_map(|line| value_of(line, name))
}

/// The value in a field line of that name.
fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
}

/// How many bytes of empty lines come before the request line.
fn empty_lines(input: &[u8]) -> Result<usize, Error> {
    let count = input.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
    if count > EMPTY_LINES_LIMIT {
        Err(bad("too many empty lines before the request line"))
    } else {
        Ok(count * 2)
    }
}

/// A line ends in CR LF; a lone CR or LF is a line end to some parsers and none to others. A last CR may still get its
/// LF. Without an early end, so that many bytes are looked at at once.
fn refuse_bare_line_ends(head: &[u8]) -> Result<(), Error> {
    let pairs = head.iter().zip(head.iter().skip(1));
    let in_pairs = pairs.fold(true, |well, (first, second)| well & ((*first == b'\r') == (*second == b'\n')));
    if in_pairs && head.first() != Some(&b'\n') {
        Ok(())
    } else {
        Err(bad("a line of the request does not end in CR LF"))
    }
}

/// 400 with this line.
pub fn bad(line: &str) -> Error {
    Error::BadRequest(line.to_owned())
}

fn malformed(error: httparse::Error, input: &[u8]) -> Error {
    match error {
        httparse::Error::Version => {
            let line = input.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
            let version = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
            match version.strip_prefix(b"HTTP/") {
                Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
                    Error::VersionNotSupported
                }
                _ => bad("malformed HTTP version in the request line"),
            }
        }
        httparse::Error::Token => bad("malformed method in the request line"),
        httparse::Error::HeaderName => bad("malformed field name in the request head"),
        httparse::Error::HeaderValue => bad("malformed field value in the request head"),
        _ => bad("malformed request head"),
    }
}

fn check(
    method: &str,
    target: &str,
    version: Option<u8>,
    fields: &[httparse::Header<'_>],
) -> Result<Head, Error> {
    let is_1_0 = version == Some(0);
    let mut seen = Fields::default();
    for field in fields {
        seen.add(field)?;
    }
    let target = target::read(method, target)?;
    match (seen.hosts, is_1_0) {
        (1, _) | (0, true) => {}
        (0, false) => return Err(bad("missing Host header")),
        _ => return Err(bad("more than one Host header")),
    }
    Ok(Head {
        method: known_method(method),
        target: target.path_and_query,
        is_https: target.is_https,
        body: seen.body(is_1_0)?,
        keep_alive: !seen.close && (!is_1_0 || seen.keep_alive),
        is_1_0,
        expects_continue: seen.expects_continue && !is_1_0,
        request_id: seen.request_id.single(),
        forwarded_for: seen.forwarded_for,
        authorization: seen.authorization.single(),
        content_type: seen.content_type.single(),
        if_none_match: seen.if_none_match.single(),
        idempotency_key: seen.idempotency_key.single_or_empty(),
        has_content_coding: seen.has_content_coding,
    })
}

/// The label of a method that is not known.
pub const OTHER_METHOD: &str = "OTHER";

/// The methods of RFC 9110, PATCH (RFC 5789) and QUERY, which OpenAPI 3.2 knows, as labels; CONNECT does not get here.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "QUERY"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or(OTHER_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(input: &str) -> u16 {
        match read_head(input.as_bytes()) {
            Ok(Some(_)) => 200,
            Ok(None) => 100,
            Err(error) => error.response().status,
        }
    }

    fn head(input: &str) -> Head {
        read_head(input.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn the_plain_form_has_only_what_frames_it() {
        let head = head(
            "\r\nPOST http://h:80/auth/keys?x=1 HTTP/1.1\r\nHost: h\r\nTE: chunked;q=x\r\nauthorization:  Bearer k \r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\nConnection: Upgrade\r\n\r\n",
        );
        assert_eq!(
            String::from_utf8(head.plain_request(b"{}")).unwrap(),
            "POST /auth/keys?x=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
        );
        assert_eq!(head.authorization.as_deref(), Some("Bearer k"));
        assert_eq!(head.content_type.as_deref(), Some("application/json"));
    }

    #[test]
    fn heads() {
        let ok = "GET / HTTP/1.1\r\nHost: h\r\n";
        let table: &[(&str, u16)] = &[
            ("", 100),
            ("GET / HTTP/1.1\r\nHo", 100),
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
            ("GET / HTTP/1.0\r\n\r\n", 200),
            ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 200),
            ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 200),
            ("GET / HTTP/1.9\r\nHost: h\r\nAuthorization: \x01\r\n\r\n", 200),
            ("GET / HTTP/1.2", 100),
            ("GET / HTTP/1.23", 400),
            ("GET / HTTP/1.2 ", 400),
            ("GET / HTTP/1.2\r\n\r\n", 400),
            ("\x16", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET /# HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/1.11\r\nHost: h\r\n\r\n", 400),
            ("GET / http/1.1\r\nHost: h\r\n\r\n", 400),
            ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
            ("GET / HTTP/1.1\nHost: h\n\n", 400),
            ("GET / HTTP/1.1\nHost", 400),
            ("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ];
        for (input, expected) in table {
            assert_eq!(status(input), *expected, "{input:?}");
        }
        let fields: &[(&str, u16)] = &[
            ("Content-Length: 5", 200),
            ("Content-Length: 0005", 200),
            ("Content-Length: 65536", 200),
            ("Content-Length: 65537", 200),
            ("Content-Length: 99999999999999999999999", 200),
            ("Content-Length: +5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 0x10", 400),
            ("Content-Length:", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: Chunked", 200),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
            ("Transfer-Encoding: chunked, gzip", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", 400),
            ("Transfer-Encoding: , chunked", 200),
            ("Transfer-Encoding: chunked,", 200),
            ("Transfer-Encoding: ,\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:", 200),
            ("Transfer-Encoding:", 400),
            ("Transfer-Encoding: chunked, chunked", 400),
            ("Transfer-Encoding: xchunked", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
            ("Expect: 100-Continue", 200),
            ("Expect: tea", 417),
            ("Expect: 100-continue, tea", 417),
            ("Expect: , 100-continue, 100-continue", 200),
            ("Expect:", 200),
            ("Authorization: a\x01b\x7f\0", 200),
            ("Authorization: a\rb", 400),
            ("Authorization : a\x01b", 400),
            ("X: y\r\n\r\nAuthorization: a\x01b", 200),
            ("X-Authorization: a\x01b", 400),
            (" folded", 400),
            ("Spaced : x", 400),
            ("X: a\rb", 400),
            ("X: a\0b", 400),
            ("X: caf\u{e9}\tx", 200),
        ];
        for (field, expected) in fields {
            assert_eq!(status(&format!("{ok}{field}\r\n\r\n")), *expected, "{field:?}");
        }
        assert_eq!(status("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
        assert_eq!(status(&format!("{ok}{}\r\n", "X: y\r\n".repeat(FIELD_LIMIT - 1))), 200);
        assert_eq!(status(&format!("{ok}{}\r\n", "X: y\r\n".repeat(FIELD_LIMIT))), 431);
        assert_eq!(status(&format!("{ok}X: {}", "y".repeat(HEAD_LIMIT))), 431);
        assert_eq!(status(&format!("{ok}X: {}\r\n\r\n", "y".repeat(HEAD_LIMIT))), 431);
        assert_eq!(status(&format!("{ok}Authorization: {}", "y".repeat(HEAD_LIMIT))), 401);
        assert_eq!(status(&format!("{ok}Authorization: y\r\nX: {}", "y".repeat(HEAD_LIMIT))), 431);
        assert_eq!(status(&format!("GET /{}", "y".repeat(HEAD_LIMIT))), 414);
        assert_eq!(status(&"M".repeat(HEAD_LIMIT)), 501);
    }

    #[test]
    fn connections_go_on_as_their_version_says() {
        let keeps = |version: &str, field: &str| {
            head(&format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n")).keep_alive
        };
        assert!(keeps("1.1", ""));
        assert!(!keeps("1.1", "Connection: foo, Close\r\n"));
        assert!(!keeps("1.1", "Connection: keep-alive, Upgrade\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
    }

    #[test]
    fn only_1_1_is_invited_to_send_its_body() {
        let expects = |version: &str, value: &str| {
            head(&format!("POST / HTTP/{version}\r\nHost: h\r\nExpect: {value}\r\n\r\n")).expects_continue
        };
        assert!(expects("1.1", "100-continue") && expects("1.2", ", 100-Continue"));
        assert!(!expects("1.0", "100-continue") && !expects("1.1", ""));
    }

    #[test]
    fn an_authorization_that_is_malformed_is_not_handed_on() {
        let authorization =
            |fields: &str| head(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")).authorization;
        assert_eq!(authorization("Authorization:\tBearer a ").as_deref(), Some("Bearer a"));
        for fields in [
            "X: y",
            "Authorization: Bearer a\r\nAuthorization: Bearer a",
            "Authorization: Bearer a\r\nAUTHORIZATION: Bearer \x01",
            "Authorization: Bearer a\x01",
            "authorization: Bearer a\x7fb",
            "Authorization: Bearer \0a",
            "Authorization: Bearer a\tb",
            "Authorization: Bearer caf\u{e9}",
        ] {
            assert_eq!(authorization(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn content_codings() {
        let is_coded = |fields: &str| {
            head(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")).has_content_coding
        };
        for fields in
            ["X: y", "Content-Encoding:", "Content-Encoding: Identity", "Content-Encoding: , identity,"]
        {
            assert!(!is_coded(fields), "{fields}");
        }
        for fields in [
            "Content-Encoding: gzip",
            "Content-Encoding: identity, br",
            "Content-Encoding: x\r\nContent-Encoding:",
        ] {
            assert!(is_coded(fields), "{fields}");
        }
    }

    #[test]
    fn a_list_may_be_spread_over_lines() {
        let list = |fields: &str| head(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).forwarded_for;
        assert_eq!(list(""), None);
        assert_eq!(
            list("X-Forwarded-For: a, b\r\nX: y\r\nx-forwarded-for:  c \r\nX-Forwarded-For: d\u{e9}\r\n")
                .as_deref(),
            Some("a, b,c,d\u{e9}")
        );
        assert_eq!(list("X-Forwarded-For:\r\nX-Forwarded-For: a\r\n").as_deref(), Some(",a"));
    }

    #[test]
    fn request_ids_are_plain() {
        let id = |value: &str| {
            head(&format!("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: {value}\r\n\r\n")).request_id
        };
        assert_eq!(id("abc-1").as_deref(), Some("abc-1"));
        assert_eq!(id(&"x".repeat(64)).as_deref(), Some(&*"x".repeat(64)));
        for other in ["", "a b", "caf\u{e9}", &"x".repeat(65)] {
            assert_eq!(id(other), None, "{other:?}");
        }
    }
}
