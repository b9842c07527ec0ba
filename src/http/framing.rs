//! What counts as a whole, small and well-formed request (RFC 9112), and its plain form for tiny_http. Everything
//! that two parsers could read in two ways is refused here; nothing in this file waits or does input or output.

use super::reply::Error;

/// Bytes of request line and field lines together.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// Field lines.
pub const FIELD_LIMIT: usize = 64;
/// Bytes of body, decoded.
pub const BODY_LIMIT: usize = 64 * 1024;
/// Bytes of one chunk-size line, and of all trailer lines together.
const CHUNK_LINE_LIMIT: usize = 256;
const TRAILER_LIMIT: usize = 4 * 1024;
/// Empty lines before a request line (RFC 9112, 2.2 asks for at least one).
const EMPTY_LINES_LIMIT: usize = 2;

/// A head that passed, and how its body is framed.
#[derive(Debug)]
pub struct Head {
    /// One of a small fixed set, for labels; `OTHER` for any method that no route has.
    pub method: &'static str,
    /// Path and, after a `?`, the query; never the authority of an absolute-form target.
    pub target: String,
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
    /// The two field lines that handlers read, as they came; `None` also for one that came twice.
    pub authorization: Option<String>,
    pub content_type: Option<String>,
}

/// How long the body is (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes, at most `BODY_LIMIT`.
    Length(usize),
    Chunked,
}

impl Head {
    /// The path alone.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The request in the one form that tiny_http is ever given: origin-form target, HTTP/1.1, and nothing but what
    /// frames it, a `Content-Length` that is true.
    pub fn plain_request(&self, body: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(64 + self.target.len() + body.len());
        let mut add = |part: &str| plain.extend_from_slice(part.as_bytes());
        add(self.method);
        add(" ");
        add(&self.target);
        add(" HTTP/1.1\r\n");
        if !body.is_empty() {
            add("Content-Length: ");
            add(&body.len().to_string());
            add("\r\n");
        }
        add("\r\n");
        plain.extend_from_slice(body);
        plain
    }
}

/// Reads a head from the start of `input`; `None` when more bytes are needed. The number is how many bytes it took.
///
/// # Errors
/// The answer for a head that is malformed, too large, or asks for what we do not do. The connection cannot go on.
pub fn read_head(input: &[u8]) -> Result<Option<(Head, usize)>, Error> {
    let skipped = empty_lines(input)?;
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(&input[skipped..]) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
        Ok(httparse::Status::Partial) if input.len() - skipped < HEAD_LIMIT => {
            refuse_bare_line_ends(&input[skipped..])?;
            return Ok(None);
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Error::HeadTooLarge),
        Err(error) => return Err(malformed(error, &input[skipped..])),
    };
    refuse_bare_line_ends(&input[skipped..skipped + length])?;
    let head =
        check(request.method.unwrap_or(""), request.path.unwrap_or(""), request.version, request.headers)?;
    Ok(Some((head, skipped + length)))
}

/// The client's own id of a request whose head is not, or need not be, well-formed: its answer is worth finding, too.
pub fn request_id(input: &[u8]) -> Option<String> {
    let lines = input[..input.len().min(HEAD_LIMIT)].split(|byte| *byte == b'\n');
    let mut fields = lines.skip(1).take_while(|line| !line.trim_ascii().is_empty());
    let value = fields.find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon].eq_ignore_ascii_case(b"x-request-id").then(|| line[colon + 1..].trim_ascii())
    })?;
    is_plain_id(value).then(|| String::from_utf8_lossy(value).into_owned())
}

fn is_plain_id(value: &[u8]) -> bool {
    (1..=64).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
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

fn bad(line: &str) -> Error {
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
    let target = plain_target(method, target)?;
    match (seen.hosts, is_1_0) {
        (1, _) | (0, true) => {}
        (0, false) => return Err(bad("missing Host header")),
        _ => return Err(bad("more than one Host header")),
    }
    Ok(Head {
        method: known_method(method),
        target,
        body: seen.body(is_1_0)?,
        keep_alive: !seen.close && (!is_1_0 || seen.keep_alive),
        is_1_0,
        expects_continue: seen.expects_continue && !is_1_0,
        request_id: seen.request_id.single(),
        forwarded_for: seen.forwarded_for,
        authorization: seen.authorization.single(),
        content_type: seen.content_type.single(),
    })
}

/// Methods that some route has or that a client may well try, as labels.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("OTHER")
}

/// The origin-form of a request target (RFC 9112, 3.2).
fn plain_target(method: &str, target: &str) -> Result<String, Error> {
    if method == "CONNECT" {
        return Err(Error::NotImplemented("CONNECT is not supported"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad("malformed request target: only visible ASCII without '#' may stand in it"));
    }
    if target.starts_with('/') || target == "*" {
        return Ok(target.to_owned());
    }
    let scheme_end = target.find("://").filter(|end| {
        let scheme = &target[..*end];
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    });
    let Some(scheme_end) = scheme_end else {
        return Err(bad("malformed request target: it starts with '/' or http://"));
    };
    let rest = &target[scheme_end + 3..];
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    if rest[..authority_end].is_empty() || !is_host(&rest.as_bytes()[..authority_end]) {
        return Err(bad("malformed host in the request target"));
    }
    let rest = &rest[authority_end..];
    Ok(if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") })
}

/// `uri-host [ ":" port ]` (RFC 9110, 7.2), with the characters of RFC 3986's reg-name and IP-literal.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let literal = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let host_is_plain = match literal {
        Some(literal) => !literal.is_empty() && literal.iter().all(|byte| plain(byte) || *byte == b':'),
        None => host.iter().all(plain),
    };
    host_is_plain && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// A field that may stand once. Handlers never see one that stood twice, or that has more than visible ASCII.
#[derive(Default)]
struct Once {
    value: Option<String>,
    spoiled: bool,
}

impl Once {
    fn set(&mut self, value: &[u8], is_plain: impl Fn(u8) -> bool) {
        self.spoiled |= self.value.is_some() || !value.iter().all(|byte| is_plain(*byte));
        self.value = Some(String::from_utf8_lossy(value).into_owned());
    }

    fn single(self) -> Option<String> {
        self.value.filter(|_| !self.spoiled)
    }
}

/// What the field lines say that matters here.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<usize>,
    has_coding: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    request_id: Once,
    forwarded_for: Option<String>,
    authorization: Once,
    content_type: Once,
}

impl Fields {
    fn add(&mut self, field: &httparse::Header<'_>) -> Result<(), Error> {
        let value = field.value.trim_ascii();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        // Most fields of most requests are none of these: the first letter tells.
        match field.name.as_bytes().first().map(u8::to_ascii_lowercase) {
            Some(b'a') if is("authorization") => self.authorization.set(value, text),
            Some(b'c') if is("content-length") => self.set_length(value)?,
            Some(b'c') if is("content-type") => self.content_type.set(value, text),
            Some(b'c') if is("connection") => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    // What follows an offer to upgrade may be in the other protocol already (RFC 9110, 7.8).
                    self.close |=
                        option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"upgrade");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Some(b'e') if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Error::ExpectationFailed);
                }
                self.expects_continue = true;
            }
            Some(b'h') if is("host") => {
                if !is_host(value) {
                    return Err(bad("malformed Host header"));
                }
                self.hosts += 1;
            }
            Some(b't') if is("transfer-encoding") => self.set_coding(value)?,
            Some(b'x') if is("x-request-id") && is_plain_id(value) => {
                self.request_id.set(value, |_| true);
            }
            Some(b'x') if is("x-forwarded-for") => {
                let value = String::from_utf8_lossy(value);
                match &mut self.forwarded_for {
                    Some(list) => {
                        list.push(',');
                        list.push_str(&value);
                    }
                    None => self.forwarded_for = Some(value.into_owned()),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn set_length(&mut self, value: &[u8]) -> Result<(), Error> {
        if self.length.is_some() {
            return Err(bad("more than one Content-Length header"));
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(bad("malformed Content-Length header: it is a number of bytes, in digits"));
        }
        let length = value.iter().try_fold(0_usize, |length, digit| {
            length
                .checked_mul(10)?
                .checked_add(usize::from(digit - b'0'))
                .filter(|length| *length <= BODY_LIMIT)
        });
        self.length = Some(length.ok_or(Error::ContentTooLarge(BODY_LIMIT))?);
        Ok(())
    }

    fn set_coding(&mut self, value: &[u8]) -> Result<(), Error> {
        if self.has_coding {
            return Err(bad("more than one Transfer-Encoding header"));
        }
        self.has_coding = true;
        let mut codings = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        self.chunked = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
        if !self.chunked {
            return Err(bad("malformed Transfer-Encoding header: the last coding is not chunked"));
        }
        if codings.next().is_some() {
            return Err(Error::NotImplemented("the only transfer coding that is supported is chunked"));
        }
        Ok(())
    }

    fn body(&self, is_1_0: bool) -> Result<Body, Error> {
        match (self.has_coding, self.length) {
            (true, Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
            (true, None) if is_1_0 => Err(bad("Transfer-Encoding in an HTTP/1.0 request")),
            (true, None) => Ok(Body::Chunked),
            (false, length) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }
}

/// Decodes a chunked body (RFC 9112, 7.1) as its bytes arrive.
#[derive(Debug, Default)]
pub struct Chunks {
    /// What was decoded so far.
    pub body: Vec<u8>,
    /// Bytes of the current chunk that are still to come, its CR LF not counted.
    left: usize,
    in_chunk: bool,
    in_trailers: bool,
    trailer_bytes: usize,
}

impl Chunks {
    /// Takes what it can from the start of `input`: how many bytes, and whether the body is now whole.
    ///
    /// # Errors
    /// 400 for a malformed chunk, 413 for a body over `BODY_LIMIT`.
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
            let limit = if self.in_trailers { TRAILER_LIMIT - self.trailer_bytes } else { CHUNK_LINE_LIMIT };
            let Some(line) = line(rest, limit)? else { return Ok((taken, false)) };
            taken += line.len() + 2;
            if self.in_trailers {
                if line.is_empty() {
                    return Ok((taken, true));
                }
                self.trailer_bytes += line.len() + 2;
                check_trailer(line)?;
                continue;
            }
            self.left = chunk_size(line)?;
            if self.body.len() + self.left > BODY_LIMIT {
                return Err(Error::ContentTooLarge(BODY_LIMIT));
            }
            self.in_chunk = self.left > 0;
            self.in_trailers = self.left == 0;
        }
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

/// The size in a chunk-size line; extensions are allowed and ignored.
fn chunk_size(line: &[u8]) -> Result<usize, Error> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = line[digits..].trim_ascii_start();
    if digits == 0 || !(extension.is_empty() || extension.starts_with(b";")) {
        return Err(bad("malformed chunk: its size is not hexadecimal"));
    }
    let size = line[..digits].iter().try_fold(0_usize, |size, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(size * 16 + usize::try_from(digit).ok()?).filter(|size| *size <= BODY_LIMIT)
    });
    size.ok_or(Error::ContentTooLarge(BODY_LIMIT))
}

/// A trailer is a field line that nobody here reads; it still has to be one.
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

    fn status(input: &str) -> u16 {
        match read_head(input.as_bytes()) {
            Ok(Some(_)) => 200,
            Ok(None) => 100,
            Err(error) => error.status(),
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
            ("Content-Length: 65537", 413),
            ("Content-Length: 99999999999999999999999", 413),
            ("Content-Length: +5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 0x10", 400),
            ("Content-Length:", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: Chunked", 200),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: chunked, gzip", 400),
            ("Transfer-Encoding: xchunked", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
            ("Expect: 100-Continue", 200),
            ("Expect: tea", 417),
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
    fn a_field_that_stands_twice_is_not_handed_on() {
        let twice =
            head("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n");
        assert_eq!(twice.plain_request(b""), b"GET / HTTP/1.1\r\n\r\n");
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

    /// Feeds a chunked body in pieces of each size; all must agree.
    fn chunked(input: &[u8]) -> Result<(Vec<u8>, usize), u16> {
        let whole = feed(input, input.len().max(1));
        for piece in 1..input.len().min(9) {
            assert_eq!(feed(input, piece), whole, "in pieces of {piece}: {}", String::from_utf8_lossy(input));
        }
        whole
    }

    fn feed(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize), u16> {
        let mut chunks = Chunks::default();
        let mut taken = 0;
        for end in (piece..).step_by(piece).map(|end| end.min(input.len())) {
            let (more, done) = chunks.take(&input[taken..end]).map_err(|error| error.status())?;
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
            (b"10001\r\n", 413),
            (b"ffffffffffffffffffff\r\n", 413),
            (b"0\r\nno field\r\n\r\n", 400),
            (b"0\r\n folded: x\r\n\r\n", 400),
        ] {
            assert_eq!(chunked(input), Err(expected), "{}", String::from_utf8_lossy(input));
        }
        let long_line = [b"1;", &[b'x'; CHUNK_LINE_LIMIT][..]].concat();
        assert_eq!(chunked(&long_line), Err(400));
        let many_trailers = [b"0\r\n".to_vec(), b"T: v\r\n".repeat(TRAILER_LIMIT)].concat();
        assert_eq!(feed(&many_trailers, 1000), Err(400));
    }
}
