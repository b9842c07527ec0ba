//! A small HTTP/1.1 client that is strict in what it accepts: an answer that RFC 9112 would not call one fails the
//! test. Everything has a deadline.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// One answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a field that must not stand twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next();
        assert!(values.next().is_none(), "{name} stands twice in {self:#?}");
        value.map(String::as_str)
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("Content-Type"), Some("application/json"), "{self:#?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    #[track_caller]
    pub fn expect_status(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Asserts the status and the whole JSON body.
    #[track_caller]
    pub fn expect(self, status: u16, body: &str) -> Response {
        assert_eq!((self.status, self.text()), (status, body));
        assert_eq!(self.header("Content-Type"), Some("application/json"), "{self:#?}");
        self
    }

    /// Asserts the form of an error that the server itself decides, and hands back its message.
    #[track_caller]
    pub fn error(&self) -> String {
        let body = self.json();
        let message = body["error"].as_str().unwrap_or_else(|| panic!("no message: {body}")).to_owned();
        assert_eq!(self.text(), serde_json::json!({ "error": message }).to_string());
        message
    }

    /// Whether the connection ends after this answer (RFC 9112, 9.3).
    pub fn closes(&self) -> bool {
        self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The bytes of a request, with what its body and its key need.
pub fn request(method: &str, path: &str, key: Option<&str>, json: Option<&str>) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    if let Some(key) = key {
        head += &format!("Authorization: Bearer {key}\r\n");
    }
    if let Some(json) = json {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
    }
    format!("{head}\r\n{}", json.unwrap_or_default()).into_bytes()
}

/// A connection that may carry several requests.
pub struct Connection {
    stream: TcpStream,
    /// Read and not yet consumed.
    buffer: Vec<u8>,
    ended: bool,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, buffer: Vec::new(), ended: false }
    }

    /// Another one to the same place.
    pub fn again(&self) -> Connection {
        Connection::open(self.stream.peer_addr().unwrap())
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends what the other side is willing to take: it may have answered and closed before the end.
    pub fn send_what_goes(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(gone.contains(&error.kind()), "cannot send: {error}");
        }
    }

    /// Says that nothing more will come from us.
    pub fn finish_sending(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// A request and its answer; the connection stays.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, key: Option<&str>, json: Option<&str>) -> Response {
        self.send(&request(method, path, key, json));
        self.receive(method)
    }

    /// The next answer. `method` decides whether it has a body.
    #[track_caller]
    pub fn receive(&mut self, method: &str) -> Response {
        loop {
            if let Some((response, length)) = parse_response(&self.buffer, method, self.ended) {
                self.buffer.drain(..length);
                return response;
            }
            assert!(!self.ended, "not a whole answer: {:?}", String::from_utf8_lossy(&self.buffer));
            self.read_more();
        }
    }

    /// The next answer, or `None` where the server ends the connection without a byte of one.
    #[track_caller]
    pub fn receive_or_end(&mut self, method: &str) -> Option<Response> {
        while self.buffer.is_empty() && !self.ended {
            self.read_more();
        }
        (!self.buffer.is_empty()).then(|| self.receive(method))
    }

    /// Asserts that the server closes, and says nothing more before.
    #[track_caller]
    pub fn expect_end(&mut self) {
        while !self.ended {
            self.read_more();
        }
        assert!(self.buffer.is_empty(), "trailing bytes: {:?}", String::from_utf8_lossy(&self.buffer));
    }

    /// The same, after an answer to nothing: a server may say 408 to a client that never asked.
    #[track_caller]
    pub fn expect_end_or_408(&mut self) {
        for response in responses(&self.rest()) {
            assert_eq!(response.status, 408, "{response:#?}");
        }
    }

    /// Whether the server says something, or closes, in this time. What it says is still there afterwards.
    pub fn says_something_within(&self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        !peeked.is_err_and(|error| [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()))
    }

    /// Everything until the server closes.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        while !self.ended {
            self.read_more();
        }
        std::mem::take(&mut self.buffer)
    }

    #[track_caller]
    fn read_more(&mut self) {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What we sent and nobody read makes a close a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.ended = true,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => panic!(
                "the server neither closed nor said more for {PATIENCE:?} after {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

/// One request on a connection of its own, and its one answer.
#[track_caller]
pub fn exchange(address: SocketAddr, request: &[u8]) -> Response {
    let mut connection = Connection::open(address);
    connection.send(request);
    let method = request.split(|byte| *byte == b' ').next().unwrap_or_default();
    let response = connection.receive(&String::from_utf8_lossy(method));
    // A client that has its answer and needs no other closes; a server that says more is wrong.
    connection.finish_sending();
    connection.expect_end();
    response
}

/// Sends these bytes and nothing else; hands back all that the server says until it closes.
#[track_caller]
pub fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(address);
    connection.send_what_goes(bytes);
    connection.rest()
}

/// The answers in these bytes, of which nothing may be left over. Answers to `HEAD` cannot be told apart here.
#[track_caller]
pub fn responses(mut bytes: &[u8]) -> Vec<Response> {
    let mut responses = Vec::new();
    while !bytes.is_empty() {
        let (response, length) = parse_response(bytes, "GET", true)
            .unwrap_or_else(|| panic!("not an answer: {:?}", String::from_utf8_lossy(bytes)));
        responses.push(response);
        bytes = &bytes[length..];
    }
    responses
}

/// The answer that these bytes begin with and its length in bytes; `None` while it is not whole (RFC 9112, 4 to 6).
fn parse_response(bytes: &[u8], method: &str, ended: bool) -> Option<(Response, usize)> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_length - 4]).expect("a head should be ASCII");
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .filter(|rest| rest.len() > 4 && rest.as_bytes()[3] == b' ')
        .and_then(|rest| rest[..3].parse::<u16>().ok())
        .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let headers: Vec<(String, String)> = lines.map(field).collect();
    let mut response = Response { status, headers, body: Vec::new() };
    let bodiless = (100..200).contains(&status) || status == 204 || status == 304;
    assert!(response.header("Transfer-Encoding").is_none(), "our answers have a length: {response:#?}");
    let length = response.header("Content-Length").map(|value| {
        assert!(!bodiless, "a length where there is no body: {response:#?}");
        assert!(value.bytes().all(|byte| byte.is_ascii_digit()), "not a length: {value:?}");
        value.parse::<usize>().unwrap()
    });
    let body_length = match length {
        _ if bodiless || method == "HEAD" => 0,
        Some(length) => length,
        None => {
            assert!(response.closes(), "neither a length nor a close: {response:#?}");
            if !ended {
                return None;
            }
            bytes.len() - head_length
        }
    };
    let whole = bytes.get(head_length..head_length + body_length)?;
    response.body = whole.to_vec();
    Some((response, head_length + body_length))
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field line: {line:?}"));
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(token), "not a field name: {line:?}");
    assert!(
        value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)),
        "not a value: {line:?}"
    );
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}
