//! A body that is a stream: authorized first, then read at the client's pace and written piece by piece.

use std::mem;
use std::time::{Duration, Instant};

use log::Level;

use super::read::Receiving;
use super::{Connection, ConnectionContext, Phase};
use crate::http::chunked::Chunks;
use crate::http::error::Error;
use crate::http::fields::Body;
use crate::http::queue::Step;
use crate::http::request::RequestInfo;
use crate::http::router::Routed;
use crate::http::upload::{self, Upload};
use crate::metrics::Rejection;

/// What a client has to send of a body within the deadline of a request, again and again. Only its last bytes may be
/// fewer, and are all there by then.
const LEAST_BYTES_PER_WINDOW: usize = 16 * 1024;
/// What it has to send in the mean, that deadline not counted: each body holds a place that others may want.
const LEAST_BYTES_PER_SECOND: u64 = 32 * 1024;

/// How fast a client sends. What the disk takes is not counted.
pub struct Pace {
    began: Instant,
    bytes: u64,
    /// Lately: since when, and how much.
    window_began: Instant,
    window_bytes: usize,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace { began: now, bytes: 0, window_began: now, window_bytes: 0 }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.window_bytes += bytes;
    }

    fn leave_out(&mut self, time: Duration) {
        self.began += time;
        self.window_began += time;
    }

    /// Whether too little has come, lately or in all.
    fn is_too_slow(&mut self, now: Instant, limit: Duration) -> bool {
        let in_all = limit + Duration::from_millis(self.bytes * 1000 / LEAST_BYTES_PER_SECOND);
        if now.saturating_duration_since(self.began) >= in_all {
            return true;
        }
        if now.saturating_duration_since(self.window_began) < limit {
            return false;
        }
        self.window_began = now;
        mem::take(&mut self.window_bytes) < LEAST_BYTES_PER_WINDOW
    }
}

impl Connection {
    /// Asks a worker whether the client may send this body.
    pub(super) fn ask_for_authorization(
        &mut self,
        context: &ConnectionContext,
        mut receiving: Receiving,
        routed: Routed,
    ) {
        let deadline = receiving.info.read_at + context.rules.deadlines.answer;
        // Refused, its body stays unread, so its connection ends; and nothing is changed by this.
        let info = RequestInfo { keep_alive: false, is_change: false, deadline, ..receiving.info.clone() };
        self.hand_on(context, &receiving.head, &[], Some(routed), Step::Authorize(routed), &info);
        let content_type = receiving.head.content_type.as_deref();
        let limit = context.server.service.stream_limit(routed, content_type);
        receiving.chunks = Chunks::new(limit.bytes);
        receiving.too_large = limit.text;
        self.receiving = Some(Box::new(receiving));
    }

    /// The client may send the body: has a file made for it, unless it is too large or there is no place for it.
    pub(super) fn begin_upload(&mut self, context: &mut ConnectionContext) {
        let Some(receiving) = &self.receiving else { return };
        let refusal = match receiving.head.body {
            Body::Length(length) if length > receiving.chunks.limit => {
                (Rejection::Malformed, Error::StreamTooLarge(receiving.too_large.clone()))
            }
            _ => match context.uploads.reserve(receiving.head.path()) {
                Ok(upload) => return self.store(upload, Vec::new()),
                Err(error) => (Rejection::Overloaded, error),
            },
        };
        context.reject(refusal.0);
        self.refuse_upload(context, &refusal.1);
    }

    /// Leaves a piece to the thread that writes. The client is read on once it is written, so no more than one read of
    /// it is in memory.
    fn store(&mut self, upload: Upload, piece: Vec<u8>) {
        self.phase = Phase::Storing(Instant::now());
        upload.store(self.peer.token, piece);
    }

    /// A piece is written: goes on with the next, or with the request, if that was the last.
    pub(super) fn stored(&mut self, context: &mut ConnectionContext, stored: std::io::Result<Upload>) {
        // Else it was given up before.
        let Phase::Storing(since) = self.phase else { return };
        let Some(mut receiving) = self.receiving.take() else { return };
        receiving.pace.leave_out(since.elapsed());
        let is_first = !mem::replace(&mut receiving.has_file, true);
        match stored {
            Ok(upload) => receiving.upload = Some(upload),
            Err(cause) => {
                let error = upload::refusal(&cause);
                // A full disk is told by the line about the answer, of which there are only so many.
                let level = if let Error::Internal = error { Level::Error } else { Level::Debug };
                log::log!(level, request_id = &*receiving.info.request_id; "cannot keep a body: {cause}");
                self.receiving = Some(receiving);
                return self.refuse_upload(context, &error);
            }
        }
        self.phase = Phase::Uploading;
        if receiving.is_whole {
            return self.answer(context, *receiving, &[]);
        }
        if is_first {
            // The client may have waited for this.
            receiving.pace = Pace::new(Instant::now());
            self.invite_body(&receiving.head);
        }
        self.receiving = Some(receiving);
    }

    /// Takes what has come of the body out of the input, if there is anything.
    pub(super) fn next_piece(&mut self) -> Result<bool, Error> {
        let Some(receiving) = &mut self.receiving else { return Ok(false) };
        let input = &self.input[self.start..];
        let piece = match &mut receiving.head.body {
            Body::Length(left) => {
                let count = input.len().min(*left);
                *left -= count;
                self.start += count;
                receiving.is_whole = *left == 0;
                input[..count].to_vec()
            }
            Body::Chunked => {
                let (taken, is_whole) = receiving.chunks.take(input).map_err(|error| match error {
                    Error::ContentTooLarge(_) => Error::StreamTooLarge(mem::take(&mut receiving.too_large)),
                    other => other,
                })?;
                self.start += taken;
                receiving.is_whole = is_whole;
                mem::take(&mut receiving.chunks.body)
            }
        };
        receiving.pace.count(piece.len());
        let upload = if piece.is_empty() && !receiving.is_whole { None } else { receiving.upload.take() };
        self.forget_used_input();
        Ok(upload.map(|upload| self.store(upload, piece)).is_some())
    }

    /// Whether the client has sent too little for too long.
    pub(super) fn is_stalled(&mut self, now: Instant, limit: Duration) -> bool {
        self.receiving.as_mut().is_some_and(|receiving| receiving.pace.is_too_slow(now, limit))
    }

    /// Answers an upload that cannot go on, and ends its connection, since the rest of the body stays unread.
    pub(super) fn refuse_upload(&mut self, context: &ConnectionContext, error: &Error) {
        if let Some(receiving) = self.receiving.take() {
            let info = RequestInfo { keep_alive: false, read_at: Instant::now(), ..receiving.info };
            self.respond(context, &error.response(), &info, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use mio::Token;

    use super::*;
    use crate::http::completions::{Completion, Outcome};
    use crate::http::connection::{Deadlines, Rules};
    use crate::http::head;
    use crate::http::request::Request;
    use crate::http::response::Response;
    use crate::http::router::{TEST_ROUTE, TestService};
    use crate::http::worker_pool::ServerContext;

    #[test]
    fn a_client_hears_of_a_disk_that_hangs_and_what_the_disk_says_later_is_dropped() {
        let service = TestService(|_: &Request<'_>| Response::no_content());
        let (_poll, server) = ServerContext::for_tests(8, Arc::new(service));
        let second = Duration::from_secs(1);
        let [request, idle, write, answer, answer_to_change, answer_to_upload] = [second; 6];
        let deadlines = Deadlines { request, idle, write, answer, answer_to_change, answer_to_upload };
        let rules = Rules { deadlines, trusted_proxies: Default::default() };
        let mut context = ConnectionContext::new(Arc::clone(&server), rules, std::env::temp_dir()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, address) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let token = Token(2);
        let stream = mio::net::TcpStream::from_std(stream);
        let mut connection = Connection::new(stream, address, token, Instant::now());
        let head = b"POST /test HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        let head = head::read_head(head).unwrap().unwrap().0;
        let receiving = Receiving::new(&mut context, &connection.peer, head, Instant::now());
        connection.ask_for_authorization(&context, receiving, TEST_ROUTE);
        let (job, _) = server.reads.pop().unwrap();
        assert!(matches!(job.step, Step::Authorize(_)) && job.peer.claim());
        connection.complete(&mut context, Completion { token, outcome: Outcome::Authorized });
        // What the thread that writes has said is not collected yet.
        connection.tick(&mut context, Instant::now() + second / 2);
        assert!(matches!(connection.phase, Phase::Storing(_)));
        connection.tick(&mut context, Instant::now() + second);
        let mut answer = [0; 20];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503 Service");
        let stored = std::iter::repeat_with(|| server.completions.collect().pop()).find_map(|one| one);
        assert!(matches!(&stored, Some(Completion { outcome: Outcome::Stored(Ok(_)), .. })));
        connection.complete(&mut context, stored.unwrap());
        assert!(matches!(connection.phase, Phase::Lingering(_)) && connection.receiving.is_none());
    }
}
