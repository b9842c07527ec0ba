//! A small service to stand behind a reverse proxy: it writes down what it is asked, and counts the bytes of bodies.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What it answers unless told otherwise.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nseen";

pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    seen: Mutex<Vec<Seen>>,
    body_bytes: AtomicU64,
    /// Instead of `ANSWER`, with the end of the connection behind it.
    other_answer: Mutex<Option<Vec<u8>>>,
}

/// One whole request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Method, target and version.
    pub line: String,
    pub headers: Vec<(String, String)>,
    /// Bytes of body, decoded.
    pub body_bytes: u64,
}

impl Seen {
    /// The values of all fields whose names a careless service could take for one that starts with this: in any case,
    /// with anything for a hyphen.
    pub fn fields_like(&self, start: &str) -> Vec<(String, &str)> {
        let plain = |name: &str| name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let fields = self.headers.iter().map(|(name, value)| (plain(name), value.as_str()));
        fields.filter(|(name, _)| name.starts_with(start)).collect()
    }
}

impl Upstream {
    pub fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            seen: Mutex::default(),
            body_bytes: AtomicU64::new(0),
            other_answer: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.serve(number, &stream.unwrap()));
            }
        });
        Upstream { address, state }
    }

    /// From now on says this, and closes.
    pub fn answer_with(&self, answer: &str) {
        *self.state.other_answer.lock().unwrap() = Some(answer.as_bytes().to_vec());
    }

    /// All requests since the last time that somebody asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }

    /// The only request since the last time.
    #[track_caller]
    pub fn take_one(&self) -> Seen {
        let mut seen = self.take_seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    /// Bytes of bodies that have come so far, also of those that are not whole.
    pub fn body_bytes(&self) -> u64 {
        self.state.body_bytes.load(Ordering::Relaxed)
    }
}

impl State {
    /// `None` at the end of the connection, wherever that comes.
    fn serve(&self, connection: usize, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let line = line(&mut reader)?;
            let mut headers = Vec::new();
            loop {
                let field = self::line(&mut reader)?;
                let Some((name, value)) = field.split_once(':') else { break };
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
            let value = |name: &str| {
                headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
            };
            if value("Expect").is_some() {
                let mut stream = stream;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
            }
            let body_bytes = if value("Transfer-Encoding").is_some() {
                self.chunks(&mut reader)?
            } else {
                let length = value("Content-Length").map_or(0, |length| length.parse().unwrap());
                self.count(&mut reader, length)?
            };
            self.seen.lock().unwrap().push(Seen { connection, line, headers, body_bytes });
            let other = self.other_answer.lock().unwrap().clone();
            let mut stream = stream;
            stream.write_all(other.as_deref().unwrap_or(ANSWER)).ok()?;
            if other.is_some() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return None;
            }
        }
    }

    fn count(&self, reader: &mut BufReader<&TcpStream>, length: u64) -> Option<u64> {
        let mut left = length;
        let mut chunk = [0; 64 * 1024];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let count = reader.read(&mut chunk[..wanted]).ok().filter(|count| *count > 0)? as u64;
            self.body_bytes.fetch_add(count, Ordering::Relaxed);
            left -= count;
        }
        Some(length)
    }

    fn chunks(&self, reader: &mut BufReader<&TcpStream>) -> Option<u64> {
        let mut total = 0;
        loop {
            let size = u64::from_str_radix(&line(reader)?, 16).unwrap();
            total += self.count(reader, size)?;
            line(reader)?;
            if size == 0 {
                return Some(total);
            }
        }
    }
}

/// A line without its end.
fn line(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|count| *count > 0)?;
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}
