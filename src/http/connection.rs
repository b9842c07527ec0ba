//! One client's connection as the gate sees it: read, check, hand on or answer, write, end. Never waits.

use std::io::{self, Read as _};
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::chunked::Chunks;
use super::forwarded;
use super::framing::{self, Body, Head};
use super::peer::{Peer, Stage};
use super::reply::{self, Asked, Error, Reply};
use super::routes::{self, Answer};
use super::vitals::PROBE;
use super::workers::{Done, Job, Shop};
use crate::config::Networks;
use crate::metrics::Rejection;

/// How long a closed connection is read on, so that the client gets our last answer instead of a reset (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that are thrown away meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;
/// Once we are draining, a connection without a request has so long to send one.
const DRAIN_IDLE: Duration = Duration::from_millis(250);
/// An input buffer larger than this is given back when it is empty.
pub const KEPT_BUFFER: usize = 4 * 1024;
/// Reads and answers that one connection gets before all others have had their turn.
const TURN: usize = 64;
/// How long a request that only reads waits for its answer while the database is known to be away.
const PATIENCE_WHEN_AWAY: Duration = Duration::from_secs(1);
/// How long a probe waits for a worker. That they move is seen from the queue, so it need not wait for a busy one.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// Deadlines, each for the whole of its thing.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Head and body, from the first byte; also for the first byte of a new connection.
    pub request: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// An answer that the client does not take.
    pub write: Duration,
    /// A request that a worker has, or that waits for one: by then, all that a worker does for it is over.
    pub answer: Duration,
    /// The same for a change that a worker has begun with: its answer may have to wait for other servers, and one that
    /// shows a new key must not be given up while it can still come.
    pub answer_to_change: Duration,
}

/// What may change from one request to the next.
pub struct Rules {
    pub deadlines: Deadlines,
    /// Whose word on the client is believed.
    pub trusted_proxies: Networks,
}

/// What all connections of the gate use.
pub struct Desk {
    pub shop: Arc<Shop>,
    pub rules: Rules,
    /// Set once, when intake stops: from then on every answer ends its connection.
    pub draining: Option<Instant>,
    /// One read goes here first; connections keep only what they must.
    scratch: Box<[u8]>,
    request_ids: RequestIds,
}

impl Desk {
    /// # Errors
    /// The system has no random bytes.
    pub fn new(shop: Arc<Shop>, rules: Rules) -> io::Result<Desk> {
        let request_ids = RequestIds::new()?;
        Ok(Desk { shop, rules, draining: None, scratch: vec![0; 16 * 1024].into_boxed_slice(), request_ids })
    }

    fn reject(&self, reason: Rejection) {
        self.shop.vitals.metrics.rejected(reason);
    }
}

/// Fresh UUIDs (version 4) without a system call for each: a random start, then a counter, mixed.
struct RequestIds {
    random: [u8; 16],
    count: u64,
}

impl RequestIds {
    fn new() -> io::Result<RequestIds> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(RequestIds { random, count: 0 })
    }

    fn fresh(&mut self) -> String {
        self.count = self.count.wrapping_add(1);
        let mut bytes = self.random;
        // An odd multiplier maps different counts to different words, so no id comes twice.
        let mixed = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        for (byte, mixed) in bytes[8..].iter_mut().zip(mixed) {
            *byte ^= mixed;
        }
        bytes[7] ^= mixed[0];
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}

/// What a connection waits for. Each moment is when that began.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The first byte of the first request.
    New(Instant),
    /// The first byte of the next request.
    Idle(Instant),
    /// The rest of a request.
    Reading(Instant),
    /// A worker's answer, or, once that is given, the first byte of the next request.
    Serving,
    /// The client, to take an answer.
    Writing(Instant),
    /// The client, to close.
    Lingering(Instant),
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Stays,
    /// There is more to do, and others have waited for long enough.
    Yields,
    Ends,
}

pub struct Connection {
    peer: Arc<Peer>,
    phase: Phase,
    /// Bytes read and not used, from `start` on.
    input: Vec<u8>,
    start: usize,
    /// A head whose body is still to come.
    head: Option<Head>,
    /// What is known of the request whose body is being read, should it be refused.
    reading: Option<Refusable>,
    chunks: Chunks,
    /// The request that a worker has, or had last.
    serving: Option<Asked>,
    /// The last read brought nothing that could complete the head.
    unfinished: bool,
    /// Nothing is left to read until the poll says so: the last read emptied the socket (epoll(7), question 9).
    drained: bool,
    /// The poll said that the client sends no more; reads go on until they say so as well.
    finished: bool,
    /// Answers that the socket would not take at once.
    output: Vec<u8>,
    /// After `output` nothing more is answered.
    closing: bool,
    thrown_away: usize,
}

impl Connection {
    pub fn new(stream: TcpStream, address: SocketAddr, token: Token, now: Instant) -> Connection {
        Connection {
            peer: Arc::new(Peer::new(stream, address, token)),
            phase: Phase::New(now),
            input: Vec::new(),
            start: 0,
            head: None,
            reading: None,
            chunks: Chunks::default(),
            serving: None,
            unfinished: false,
            drained: false,
            finished: false,
            output: Vec::new(),
            closing: false,
            thrown_away: 0,
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub fn stream(&mut self) -> Option<&mut TcpStream> {
        Arc::get_mut(&mut self.peer).map(|peer| &mut peer.stream)
    }

    /// Bytes of memory that the client makes us hold.
    pub fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity() + self.chunks.body.capacity()
    }

    /// For admission: since when this connection waits for its client, and whether nothing is lost if it ends.
    pub fn waits_for_client(&self) -> Option<(bool, Instant)> {
        match self.phase {
            Phase::New(since) | Phase::Idle(since) => Some((true, since)),
            Phase::Reading(since) | Phase::Writing(since) => Some((false, since)),
            Phase::Lingering(since) => Some((true, since)),
            // A client that has finished sending may be gone, and an answer that waits would keep its place for it.
            Phase::Serving if self.finished && self.peer.stage() == Some(Stage::Parked) => {
                self.serving.as_ref().map(|asked| (true, asked.at))
            }
            Phase::Serving => self.peer.idle_since().map(|since| (true, since)),
        }
    }

    /// The socket is readable, writable, or both; or the client has finished sending, or is gone.
    pub fn ready(&mut self, desk: &mut Desk, finished: bool, gone: bool) -> Fate {
        self.drained = false;
        self.finished |= finished;
        if gone && matches!(self.phase, Phase::Serving) {
            return Fate::Ends;
        }
        self.advance(desk)
    }

    /// A worker has answered and left something to do.
    pub fn done(&mut self, desk: &mut Desk, done: Done) -> Fate {
        let now = Instant::now();
        if done.close || !done.rest.is_empty() {
            self.peer.release(now);
        }
        self.closing |= done.close;
        if !done.rest.is_empty() {
            self.output = done.rest;
            self.phase = Phase::Writing(now);
        }
        self.advance(desk)
    }

    /// Goes on until somebody else has to move, the client or a worker, or until its turn is over.
    pub fn advance(&mut self, desk: &mut Desk) -> Fate {
        for _ in 0..TURN {
            if let Phase::Lingering(_) = self.phase {
                return self.linger(desk);
            }
            if matches!(self.phase, Phase::Serving) {
                // Asked to wake us, a worker would do so for nothing: the client waits for its answer.
                if self.has_nothing_to_read() && !self.closing {
                    return Fate::Stays;
                }
                let Some(since) = self.peer.gate_turn() else { return Fate::Stays };
                self.phase = Phase::Idle(since);
            }
            if !self.output.is_empty() && self.flush().is_err() {
                return Fate::Ends;
            }
            if !self.output.is_empty() {
                return Fate::Stays;
            }
            if self.closing {
                return self.end(desk);
            }
            match self.next_request(desk) {
                Ok(true) => {}
                Ok(false) if self.drained => return Fate::Stays,
                Ok(false) => match self.read(desk) {
                    Ok(0) => return Fate::Ends,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Stays,
                    Err(_) => return Fate::Ends,
                },
                Err(error) => {
                    desk.reject(match error {
                        Error::TlsOnPlainPort => Rejection::TlsOnPlainPort,
                        _ => Rejection::Malformed,
                    });
                    self.refuse(desk, &error);
                }
            }
        }
        Fate::Yields
    }

    fn has_nothing_to_read(&self) -> bool {
        self.drained && self.start == self.input.len()
    }

    /// Takes one whole request out of the input and has it answered, if there is one.
    fn next_request(&mut self, desk: &mut Desk) -> Result<bool, Error> {
        if self.start == self.input.len() || mem::take(&mut self.unfinished) {
            return Ok(false);
        }
        let now = Instant::now();
        if let Phase::New(_) | Phase::Idle(_) = self.phase {
            self.phase = Phase::Reading(now);
        }
        let head = match self.head.take() {
            Some(head) => head,
            None => match framing::read_head(&self.input[self.start..])? {
                None => return Ok(false),
                Some((head, length)) => {
                    self.start += length;
                    self.invite_body(&head);
                    self.reading = Some(Refusable {
                        request_id: head.request_id.clone(),
                        is_head: head.method == "HEAD",
                    });
                    head
                }
            },
        };
        let input = &self.input[self.start..];
        let chunked = match head.body {
            Body::Length(length) if input.len() < length => {
                self.head = Some(head);
                return Ok(false);
            }
            Body::Length(_) => None,
            Body::Chunked => {
                let (taken, whole) = self.chunks.take(input)?;
                self.start += taken;
                if !whole {
                    self.head = Some(head);
                    self.forget_used_input();
                    return Ok(false);
                }
                Some(mem::take(&mut self.chunks).body)
            }
        };
        match (&chunked, head.body) {
            (Some(body), _) => self.answer(desk, &head, Source::Decoded(body), now),
            (None, Body::Length(length)) => {
                self.answer(desk, &head, Source::Input(self.start..self.start + length), now);
                self.start += length;
            }
            (None, Body::Chunked) => {}
        }
        self.forget_used_input();
        Ok(true)
    }

    /// `100 Continue` (RFC 9110, 15.2.1) for a client that waits for it. Nothing else is in the socket's buffer, so
    /// it fits; should it not, the client sends its body after a while all the same.
    fn invite_body(&self, head: &Head) {
        let body_is_here = match head.body {
            Body::Length(length) => self.input.len() - self.start >= length,
            Body::Chunked => self.input.len() > self.start,
        };
        if head.expects_continue && !body_is_here {
            let _ = self.peer.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn answer(&mut self, desk: &mut Desk, head: &Head, body: Source<'_>, now: Instant) {
        self.reading = None;
        let request_id = match &head.request_id {
            Some(theirs) => theirs.as_str().into(),
            None => desk.request_ids.fresh().into(),
        };
        let mut asked = Asked {
            request_id,
            method: head.method,
            route: "unmatched",
            keep_alive: head.keep_alive,
            is_1_0: head.is_1_0,
            client: forwarded::client(
                self.peer.address.ip(),
                head.forwarded_for.as_deref(),
                &desk.rules.trusted_proxies,
            ),
            at: now,
            deadline: now + desk.rules.deadlines.answer,
        };
        let is_misdirected = head.is_https && !desk.rules.trusted_proxies.contains(self.peer.address.ip());
        let found = match is_misdirected {
            true => Err(Error::MisdirectedRequest),
            false => routes::find(head.method, head.path()),
        };
        let reply = match found {
            Err(_) if desk.shop.vitals.is_probe(head.path()) => {
                asked.route = PROBE;
                if self.hand_on(desk, head, body, &asked) {
                    return;
                }
                Error::Overloaded.reply()
            }
            Err(error) => {
                if let Error::MethodNotAllowed(_) = error {
                    asked.route = routes::pattern(head.path());
                }
                error.reply()
            }
            Ok(found) => {
                asked.route = found.route.pattern;
                match found.route.answer {
                    Answer::Gate(answer) => {
                        desk.shop.vitals.metrics.queue_depth.set(desk.shop.depth() as i64);
                        answer(&desk.shop.vitals)
                    }
                    Answer::Worker(..) if self.hand_on(desk, head, body, &asked) => return,
                    Answer::Worker(..) => {
                        desk.reject(Rejection::Overloaded);
                        Error::Overloaded.reply()
                    }
                }
            }
        };
        self.reply(desk, &reply, &asked, !routes::is_under_auth(head.path()));
    }

    /// Into the queue, unless that is full.
    fn hand_on(&mut self, desk: &Desk, head: &Head, body: Source<'_>, asked: &Asked) -> bool {
        let body = match &body {
            Source::Input(range) => &self.input[range.clone()],
            Source::Decoded(body) => body,
        };
        let job = Job {
            peer: Arc::clone(&self.peer),
            plain: head.plain_request(body),
            authorization: head.authorization.clone(),
            content_type: head.content_type.clone(),
            has_content_coding: head.has_content_coding,
            asked: asked.clone(),
        };
        let in_flight = &desk.shop.vitals.metrics.requests_in_flight;
        // First of all, since a worker may be done before the next line.
        let before = mem::replace(&mut self.phase, Phase::Serving);
        self.serving = Some(asked.clone());
        self.peer.hand_over();
        in_flight.inc();
        let queued = desk.shop.queue_of(asked).push(job);
        if !queued {
            self.peer.take_back(asked.at, |_| true);
            in_flight.dec();
            self.phase = before;
        }
        queued
    }

    /// Answers on the gate's own thread.
    fn reply(&mut self, desk: &Desk, reply: &Reply, asked: &Asked, may_be_stored: bool) {
        let close = !asked.keep_alive || desk.draining.is_some();
        reply::encode(reply, asked.framing(close, !may_be_stored), &mut self.output);
        self.closing |= close;
        desk.shop.vitals.answered(asked, reply, asked.at.elapsed());
        self.phase = Phase::Writing(Instant::now());
    }

    /// Answers what is no request, or came too late, and ends the connection.
    fn refuse(&mut self, desk: &mut Desk, error: &Error) {
        let refusable = self.reading.take().unwrap_or_else(|| {
            let input = &self.input[self.start..];
            Refusable { request_id: framing::request_id(input), is_head: framing::is_head(input) }
        });
        let now = Instant::now();
        let asked = Asked {
            request_id: refusable.request_id.unwrap_or_else(|| desk.request_ids.fresh()).into(),
            method: if refusable.is_head { "HEAD" } else { framing::OTHER_METHOD },
            route: "malformed",
            keep_alive: false,
            is_1_0: false,
            client: self.peer.address.ip().to_canonical(),
            at: now,
            deadline: now,
        };
        // Whatever it was may have been for a path under /auth.
        self.reply(desk, &error.reply(), &asked, false);
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.peer.write(&self.output)?;
        if written == self.output.len() {
            self.output.clear();
            if self.output.capacity() > KEPT_BUFFER {
                self.output = Vec::new();
            }
            self.phase = Phase::Idle(Instant::now());
        } else {
            self.output.drain(..written);
        }
        Ok(())
    }

    fn read(&mut self, desk: &mut Desk) -> io::Result<usize> {
        let count = loop {
            match (&self.peer.stream).read(&mut desk.scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.drained = count < desk.scratch.len() && !self.finished;
        let new = &desk.scratch[..count];
        // A head ends with a line: without a new line end it is as unfinished as before, so a client that sends byte
        // by byte costs no parsing. The first bytes are always looked at, since most rubbish shows at once.
        self.unfinished = self.head.is_none()
            && !self.input.is_empty()
            && !new.contains(&b'\n')
            && self.input.len() - self.start + count < framing::HEAD_LIMIT;
        self.input.extend_from_slice(new);
        Ok(count)
    }

    fn forget_used_input(&mut self) {
        if self.start == self.input.len() {
            self.start = 0;
            self.input.clear();
            if self.input.capacity() > KEPT_BUFFER {
                self.input = Vec::new();
            }
        } else if self.start > self.input.len() / 2 {
            self.input.drain(..self.start);
            self.start = 0;
        }
    }

    /// After the last answer: no more from us, and what the client still sends is thrown away for a while.
    fn end(&mut self, desk: &mut Desk) -> Fate {
        if self.peer.stream.shutdown(Shutdown::Write).is_err() {
            return Fate::Ends;
        }
        self.input = Vec::new();
        self.start = 0;
        self.phase = Phase::Lingering(Instant::now());
        self.linger(desk)
    }

    fn linger(&mut self, desk: &mut Desk) -> Fate {
        loop {
            match (&self.peer.stream).read(&mut desk.scratch) {
                Ok(0) => return Fate::Ends,
                Ok(count) => {
                    self.thrown_away += count;
                    if self.thrown_away > LINGER_BYTES {
                        return Fate::Ends;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Stays,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Fate::Ends,
            }
        }
    }

    /// Looks at the deadlines; called a few times a second.
    pub fn tick(&mut self, desk: &mut Desk, now: Instant) -> Fate {
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let ends_drain =
            |since: Instant| desk.draining.is_some_and(|began| over(since.max(began), DRAIN_IDLE));
        let idle_is_over = |since: Instant| ends_drain(since) || over(since, desk.rules.deadlines.idle);
        match self.phase {
            Phase::New(since) if over(since, desk.rules.deadlines.request) => {
                desk.reject(Rejection::TooSlow);
                Fate::Ends
            }
            Phase::New(since) if ends_drain(since) => Fate::Ends,
            Phase::Idle(since) if idle_is_over(since) => Fate::Ends,
            Phase::Reading(since) if over(since, desk.rules.deadlines.request) => {
                desk.reject(Rejection::TooSlow);
                self.refuse(desk, &Error::RequestTimeout);
                self.advance(desk)
            }
            Phase::Writing(since) if over(since, desk.rules.deadlines.write) => {
                desk.reject(Rejection::TooSlow);
                Fate::Ends
            }
            Phase::Lingering(since) if over(since, LINGER) => Fate::Ends,
            Phase::Serving => match self.peer.idle_since() {
                Some(since) if idle_is_over(since) => Fate::Ends,
                Some(_) => Fate::Stays,
                None => self.lose_patience(desk, now),
            },
            _ => Fate::Stays,
        }
    }

    /// The worker, or the database behind it, took too long: the client is told so, and what the worker says later
    /// is dropped.
    fn lose_patience(&mut self, desk: &mut Desk, now: Instant) -> Fate {
        let Some(asked) = &self.serving else { return Fate::Stays };
        let waited = now.saturating_duration_since(asked.at);
        let is_over = |stage| {
            waited
                >= match asked {
                    Asked { route: PROBE, .. } => PROBE_PATIENCE,
                    change if change.is_change() && stage != Stage::Queued => {
                        desk.rules.deadlines.answer_to_change
                    }
                    change if change.is_change() || desk.shop.vitals.database.answers() => {
                        desk.rules.deadlines.answer
                    }
                    _ => desk.rules.deadlines.answer.min(PATIENCE_WHEN_AWAY),
                }
        };
        let Some(stage) = self.peer.take_back(now, is_over) else { return Fate::Stays };
        desk.shop.vitals.metrics.requests_in_flight.dec();
        if let Some(asked) = self.serving.take() {
            let error = match stage {
                Stage::Begun | Stage::Parked if asked.is_change() => Error::OutcomeUnknown,
                _ => Error::DatabaseUnavailable,
            };
            self.reply(desk, &error.reply(), &Asked { keep_alive: false, ..asked }, false);
        }
        self.advance(desk)
    }
}

/// What the answer to a request needs that is refused before it is whole.
struct Refusable {
    /// The client's own id of it.
    request_id: Option<String>,
    is_head: bool,
}

/// Where the body of a request is.
enum Source<'a> {
    Input(std::ops::Range<usize>),
    Decoded(&'a [u8]),
}
