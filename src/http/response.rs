//! Responses, and their bytes.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::download::Download;
use super::parked_response::ParkedResponse;

/// One answer, before it is known how the connection goes on.
#[derive(Default)]
pub struct Response {
    pub status: u16,
    pub content_type: Option<&'static str>,
    /// Further field lines. Values are visible ASCII and spaces.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Cow<'static, [u8]>,
    /// The body instead, where it is too large for memory.
    pub download: Option<Download>,
    /// Where the answer may not be given yet: who takes it, and completes it later.
    pub park: Option<Park>,
    /// Until when it may wait then; `None`: for as long as answers of its kind may.
    pub parked_until: Option<Instant>,
    /// What has to be done where the client cannot be given this answer.
    pub if_undelivered: Option<IfUndelivered>,
    /// The key that asked, for the access log, where there is a valid one.
    pub key_id: Option<Uuid>,
}

/// Takes an answer that is ready and has to wait.
pub type Park = Box<dyn FnOnce(ParkedResponse) + Send>;

/// What has to be done where an answer could not be given; done when it is dropped, unless it was disarmed.
pub struct IfUndelivered(Option<Box<dyn FnOnce() + Send>>);

impl IfUndelivered {
    /// The client has the answer.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for IfUndelivered {
    fn drop(&mut self) {
        if let Some(make_good) = self.0.take() {
            make_good();
        }
    }
}

impl Response {
    /// A compact JSON body. Fields appear in the order of the type's own declaration.
    ///
    /// # Errors
    /// The type has what JSON cannot write.
    pub fn json(status: u16, body: &impl Serialize) -> serde_json::Result<Response> {
        Ok(Response::bytes(status, "application/json", serde_json::to_vec(body)?))
    }

    /// `{"error":"<message>"}`.
    pub fn error(status: u16, message: &str) -> Response {
        let body = json!({ "error": message }).to_string().into_bytes();
        let response = Response::bytes(status, "application/json", body);
        if status == 503 { response.header("Retry-After", "1") } else { response }
    }

    /// A body that is already in its final form.
    pub fn bytes(status: u16, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, content_type: Some(content_type), body: body.into(), ..Response::default() }
    }

    /// 204 (RFC 9110, 15.3.5).
    pub fn no_content() -> Response {
        Response { status: 204, ..Response::default() }
    }

    /// The same answer, to be given once the thread that `park` hands it to completes it.
    pub fn parked(mut self, park: impl FnOnce(ParkedResponse) + Send + 'static) -> Response {
        self.park = Some(Box::new(park));
        self
    }

    /// The same, where it may have to wait until this moment, whatever answers of its kind may.
    pub fn parked_until(
        self,
        until: Instant,
        park: impl FnOnce(ParkedResponse) + Send + 'static,
    ) -> Response {
        Response { parked_until: Some(until), ..self.parked(park) }
    }

    /// The same answer, with what has to be done where the client cannot be given it.
    pub fn or_if_undelivered(mut self, if_undelivered: impl FnOnce() + Send + 'static) -> Response {
        self.if_undelivered = Some(IfUndelivered(Some(Box::new(if_undelivered))));
        self
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.download.as_ref().map_or(self.body.len() as u64, Download::length)
    }

    /// The same answer with one more field line.
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }
}

/// The realm of RFC 6750's challenges.
pub const CHALLENGE: &str = "Bearer realm=\"cloacina\"";

/// What the exchange, rather than the handler, decides about an answer.
#[derive(Debug, Clone, Copy)]
pub struct Framing<'a> {
    /// The value of `X-Request-Id`.
    pub request_id: &'a str,
    /// The request was HEAD: the field lines of GET, and no body (RFC 9110, 9.3.2).
    pub head: bool,
    /// The connection ends after this answer (RFC 9112, 9.6).
    pub close: bool,
    /// The client spoke HTTP/1.0 and asked to keep the connection: it wants to be told that it may.
    pub keep_alive_1_0: bool,
    /// No cache may store it, unless the answer says itself which may.
    pub no_store: bool,
}

/// Appends the whole answer to `out`, ready for one write (RFC 9112, 4 and 5).
pub fn encode(response: &Response, framing: Framing<'_>, out: &mut Vec<u8>) {
    out.reserve(320 + response.body.len());
    let _ = write!(out, "HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    with_date(|date| field(out, "Date", date));
    field(out, "X-Request-Id", framing.request_id);
    if let Some(content_type) = response.content_type {
        field(out, "Content-Type", content_type);
    }
    if framing.no_store && !response.headers.iter().any(|(name, _)| *name == "Cache-Control") {
        field(out, "Cache-Control", "no-store");
    }
    if framing.close {
        field(out, "Connection", "close");
    } else if framing.keep_alive_1_0 {
        field(out, "Connection", "keep-alive");
    }
    for (name, value) in &response.headers {
        field(out, name, value);
    }
    // Neither has a body (RFC 9110, 15.3.5 and 15.4.5).
    let has_body = !matches!(response.status, 204 | 304);
    if has_body {
        field(out, "Content-Length", &response.length().to_string());
    }
    out.extend_from_slice(b"\r\n");
    if !framing.head && has_body {
        out.extend_from_slice(&response.body);
    }
}

/// One field line. A value with anything but visible ASCII and spaces would end the line early or worse (RFC 9110,
/// 5.5), so such bytes become `?`; our own values never have any.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if (b' '..=b'~').contains(&byte) { byte } else { b'?' }));
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of a status (RFC 9110, 15). tiny_http has those of RFC 7231, two of which have changed since.
fn reason(status: u16) -> &'static str {
    match status {
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        _ => tiny_http::StatusCode(status).default_reason_phrase(),
    }
}

/// Hands on the current IMF-fixdate (RFC 9110, 5.6.7), formatted once a second and thread.
fn with_date(use_date: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let second = second_of(SystemTime::now());
    DATE.with_borrow_mut(|(formatted_at, text)| {
        if *formatted_at != second || text.is_empty() {
            *text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            *formatted_at = second;
        }
        use_date(text);
    });
}

/// The second since 1970. What an IMF-fixdate has no form for becomes the nearest that it has one for: the clock may be
/// far off, and is no reason not to answer.
fn second_of(now: SystemTime) -> u64 {
    const LAST_OF_9999: u64 = 253_402_300_799;
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().min(LAST_OF_9999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_has_a_date() {
        let years = |count: u64| Duration::from_secs(count * 365 * 24 * 3600);
        for (now, date) in [
            (SystemTime::UNIX_EPOCH - years(60), "Thu, 01 Jan 1970 00:00:00 GMT"),
            (SystemTime::UNIX_EPOCH + Duration::from_secs(1), "Thu, 01 Jan 1970 00:00:01 GMT"),
            (SystemTime::UNIX_EPOCH + years(9000), "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let shown = SystemTime::UNIX_EPOCH + Duration::from_secs(second_of(now));
            assert_eq!(httpdate::fmt_http_date(shown), date);
        }
    }

    const FRAMING: Framing<'_> =
        Framing { request_id: "the-id", head: false, close: false, keep_alive_1_0: false, no_store: false };

    /// The answer without its date.
    fn encoded(response: &Response, framing: Framing<'_>) -> String {
        let mut out = b"before|".to_vec();
        encode(response, framing, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (start, rest) = text.split_once("Date: ").unwrap();
        let (date, rest) = rest.split_once("\r\n").unwrap();
        assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
        format!("{start}{rest}")
    }

    #[test]
    fn an_answer_in_every_framing() {
        let response = Response::bytes(200, "text/plain", &b"body"[..]).header("X-A", "b");
        let with = |fields: &str, body: &str| {
            format!(
                "before|HTTP/1.1 200 OK\r\nX-Request-Id: the-id\r\nContent-Type: text/plain\r\n{fields}X-A: b\r\n\
                 Content-Length: 4\r\n\r\n{body}"
            )
        };
        assert_eq!(encoded(&response, FRAMING), with("", "body"));
        assert_eq!(encoded(&response, Framing { head: true, ..FRAMING }), with("", ""));
        assert_eq!(
            encoded(&response, Framing { no_store: true, ..FRAMING }),
            with("Cache-Control: no-store\r\n", "body")
        );
        let old = Framing { keep_alive_1_0: true, ..FRAMING };
        assert_eq!(encoded(&response, old), with("Connection: keep-alive\r\n", "body"));
        assert_eq!(encoded(&response, Framing { close: true, ..old }), with("Connection: close\r\n", "body"));
        assert_eq!(
            encoded(&Response::no_content(), FRAMING),
            "before|HTTP/1.1 204 No Content\r\nX-Request-Id: the-id\r\n\r\n"
        );
    }

    /// A value that has a line end would be two fields, or the end of the head.
    #[test]
    fn a_field_is_one_line_of_ascii() {
        let response = Response::no_content().header("X-A", "a b~\r\nX-B: \u{e9}\0\x7f\t");
        assert!(encoded(&response, FRAMING).ends_with("\r\nX-A: a b~??X-B: ?????\r\n\r\n"));
    }
}
