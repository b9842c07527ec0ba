//! What the field lines of a head say that matters here (RFC 9110, 5; RFC 9112, 6).

use super::error::Error;
use super::head::bad;
use super::target;

/// How long the body is (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes that are still to come.
    Length(usize),
    Chunked,
}

/// A field that may stand once. Handlers never see one that stood twice, or that has more than visible ASCII.
#[derive(Default)]
pub struct Once {
    value: Option<String>,
    spoiled: bool,
}

impl Once {
    fn set(&mut self, value: &[u8], is_plain: impl Fn(u8) -> bool) {
        self.spoiled |= self.value.is_some() || !value.iter().all(|byte| is_plain(*byte));
        self.value = Some(String::from_utf8_lossy(value).into_owned());
    }

    pub fn single(self) -> Option<String> {
        self.value.filter(|_| !self.spoiled)
    }

    /// The same for a field that may not be overlooked: one that is spoiled is empty.
    pub fn single_or_empty(self) -> Option<String> {
        let spoiled = self.spoiled;
        self.value.map(|value| if spoiled { String::new() } else { value })
    }
}

/// What the field lines say that matters here.
#[derive(Default)]
pub struct Fields {
    pub hosts: usize,
    length: Option<usize>,
    has_coding: bool,
    codings: Vec<Vec<u8>>,
    pub has_content_coding: bool,
    pub close: bool,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub request_id: Once,
    pub forwarded_for: Option<String>,
    pub authorization: Once,
    pub content_type: Once,
    pub if_none_match: Once,
    pub idempotency_key: Once,
}

impl Fields {
    pub fn add(&mut self, field: &httparse::Header<'_>) -> Result<(), Error> {
        let value = field.value.trim_ascii();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        // Most fields of most requests are none of these: the first letter tells.
        match field.name.as_bytes().first().map(u8::to_ascii_lowercase) {
            Some(b'a') if is("authorization") => self.authorization.set(value, text),
            Some(b'c') if is("content-length") => self.set_length(value)?,
            Some(b'c') if is("content-encoding") => {
                self.has_content_coding |=
                    elements(value).any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
            }
            Some(b'c') if is("content-type") => self.content_type.set(value, text),
            Some(b'c') if is("connection") => {
                for option in elements(value) {
                    // What follows an offer to upgrade may be in the other protocol already (RFC 9110, 7.8).
                    self.close |=
                        option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"upgrade");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Some(b'e') if is("expect") => {
                for expectation in elements(value) {
                    if !expectation.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Error::ExpectationFailed);
                    }
                    self.expects_continue = true;
                }
            }
            Some(b'h') if is("host") => {
                if !target::is_host(value) {
                    return Err(bad("malformed Host header"));
                }
                self.hosts += 1;
            }
            Some(b'i') if is("if-none-match") => self.if_none_match.set(value, text),
            Some(b'i') if is("idempotency-key") => {
                self.idempotency_key.set(value, |byte| byte.is_ascii_graphic());
            }
            Some(b't') if is("transfer-encoding") => {
                self.has_coding = true;
                self.codings.extend(elements(value).map(|coding| coding.to_ascii_lowercase()));
            }
            Some(b'x') if is("x-request-id") && is_plain_id(value) => {
                self.request_id.set(value, |_| true);
            }
            Some(b'x') if is("x-forwarded-for") => {
                let before = self.forwarded_for.take().map(|list| list + ",");
                self.forwarded_for = Some(before.unwrap_or_default() + &String::from_utf8_lossy(value));
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
        // A number that is too large to be one is over any limit as well.
        let digits = std::str::from_utf8(value).unwrap_or_default();
        self.length = Some(digits.parse().unwrap_or(usize::MAX));
        Ok(())
    }

    /// All lines of Transfer-Encoding are one list (RFC 9112, 6.1 and 6.3).
    pub fn body(&self, is_1_0: bool) -> Result<Body, Error> {
        if !self.has_coding {
            return Ok(Body::Length(self.length.unwrap_or(0)));
        }
        if self.length.is_some() {
            return Err(bad("both Content-Length and Transfer-Encoding"));
        }
        if is_1_0 {
            return Err(bad("Transfer-Encoding in an HTTP/1.0 request"));
        }
        match self.codings.split_last() {
            Some((last, before)) if last == b"chunked" => {
                if before.is_empty() {
                    Ok(Body::Chunked)
                } else if before.iter().any(|coding| coding == b"chunked") {
                    Err(bad("malformed Transfer-Encoding header: chunked stands in it more than once"))
                } else {
                    Err(Error::NotImplemented("the only transfer coding that is supported is chunked"))
                }
            }
            _ => Err(bad("malformed Transfer-Encoding header: the last coding is not chunked")),
        }
    }
}

/// The elements of a list; empty ones do not count (RFC 9110, 5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether a client's own request id is taken.
pub fn is_plain_id(value: &[u8]) -> bool {
    (1..=64).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}
