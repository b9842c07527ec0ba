//! One client's connection as the event loop sees it: read, check, hand on or answer, write, end. Never waits.

use std::io::{self, Read as _};
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::chunked::Chunks;
use super::completions::Completion;
use super::error::Error;
use super::forwarded;
use super::head::{self, Body, Head};
use super::peer::{Peer, Stage};
use super::queue::Job;
use super::request::RequestInfo;
use super::response::{self, Response};
use super::router::Routed;
use super::server_status::PROBE;
use super::worker_pool::ServerContext;
use crate::metrics::Rejection;
use crate::networks::Networks;

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

/// What all connections of the event loop use.
pub struct ConnectionContext {
    pub server: Arc<ServerContext>,
    pub rules: Rules,
    /// Set once, when intake stops: from then on every answer ends its connection.
    pub draining: Option<Instant>,
    /// One read goes here first; connections keep only what they must.
    scratch: Box<[u8]>,
    request_ids: RequestIds,
}

impl ConnectionContext {
    /// # Errors
    /// The system has no random bytes.
    pub fn new(server: Arc<ServerContext>, rules: Rules) -> io::Result<ConnectionContext> {
        let request_ids = RequestIds::new()?;
        Ok(ConnectionContext {
            server,
            rules,
            draining: None,
            scratch: vec![0; 16 * 1024].into_boxed_slice(),
            request_ids,
        })
    }

    fn reject(&self, reason: Rejection) {
        self.server.status.metrics.rejected(reason);
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
pub enum NextAction {
    Wait,
    /// There is more to do, and others have waited for long enough.
    Yield,
    End,
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
    serving: Option<RequestInfo>,
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
                self.serving.as_ref().map(|info| (true, info.at))
            }
            Phase::Serving => self.peer.idle_since().map(|since| (true, since)),
        }
    }

    /// The socket is readable, writable, or both; or the client has finished sending, or is gone.
    pub fn ready(&mut self, context: &mut ConnectionContext, finished: bool, gone: bool) -> NextAction {
        self.drained = false;
        self.finished |= finished;
        if gone && matches!(self.phase, Phase::Serving) {
            return NextAction::End;
        }
        self.advance(context)
    }

    /// A worker has answered and left something to do.
    pub fn complete(&mut self, context: &mut ConnectionContext, completion: Completion) -> NextAction {
        let now = Instant::now();
        if completion.close || !completion.rest.is_empty() {
            self.peer.release(now);
        }
        self.closing |= completion.close;
        if !completion.rest.is_empty() {
            self.output = completion.rest;
            self.phase = Phase::Writing(now);
        }
        self.advance(context)
    }

    /// Goes on until somebody else has to move, the client or a worker, or until its turn is over.
    pub fn advance(&mut self, context: &mut ConnectionContext) -> NextAction {
        for _ in 0..TURN {
            if let Phase::Lingering(_) = self.phase {
                return self.linger(context);
            }
            if matches!(self.phase, Phase::Serving) {
                // RequestInfo to wake us, a worker would do so for nothing: the client waits for its answer.
                if self.has_nothing_to_read() && !self.closing {
                    return NextAction::Wait;
                }
                let Some(since) = self.peer.event_loop_turn() else { return NextAction::Wait };
                self.phase = Phase::Idle(since);
            }
            if !self.output.is_empty() && self.flush().is_err() {
                return NextAction::End;
            }
            if !self.output.is_empty() {
                return NextAction::Wait;
            }
            if self.closing {
                return self.end(context);
            }
            match self.next_request(context) {
                Ok(true) => {}
                Ok(false) if self.drained => return NextAction::Wait,
                Ok(false) => match self.read(context) {
                    Ok(0) => return NextAction::End,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return NextAction::Wait,
                    Err(_) => return NextAction::End,
                },
                Err(error) => {
                    context.reject(match error {
                        Error::TlsOnPlainPort => Rejection::TlsOnPlainPort,
                        _ => Rejection::Malformed,
                    });
                    self.refuse(context, &error);
                }
            }
        }
        NextAction::Yield
    }

    fn has_nothing_to_read(&self) -> bool {
        self.drained && self.start == self.input.len()
    }

    /// Takes one whole request out of the input and has it answered, if there is one.
    fn next_request(&mut self, context: &mut ConnectionContext) -> Result<bool, Error> {
        if self.start == self.input.len() || mem::take(&mut self.unfinished) {
            return Ok(false);
        }
        let now = Instant::now();
        if let Phase::New(_) | Phase::Idle(_) = self.phase {
            self.phase = Phase::Reading(now);
        }
        let head = match self.head.take() {
            Some(head) => head,
            None => match head::read_head(&self.input[self.start..])? {
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
            (Some(body), _) => self.answer(context, &head, Source::Decoded(body), now),
            (None, Body::Length(length)) => {
                self.answer(context, &head, Source::Input(self.start..self.start + length), now);
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

    fn answer(&mut self, context: &mut ConnectionContext, head: &Head, body: Source<'_>, now: Instant) {
        self.reading = None;
        let request_id = match &head.request_id {
            Some(theirs) => theirs.as_str().into(),
            None => context.request_ids.fresh().into(),
        };
        let mut info = RequestInfo {
            request_id,
            method: head.method,
            route: "unmatched",
            keep_alive: head.keep_alive,
            is_1_0: head.is_1_0,
            client: forwarded::client(
                self.peer.address.ip(),
                head.forwarded_for.as_deref(),
                &context.rules.trusted_proxies,
            ),
            at: now,
            deadline: now + context.rules.deadlines.answer,
        };
        let is_misdirected = head.is_https && !context.rules.trusted_proxies.contains(self.peer.address.ip());
        let routed = match is_misdirected {
            true => Err((Error::MisdirectedRequest, "unmatched")),
            false => context.server.service.route(head.method, head.path()),
        };
        let response = match routed {
            Ok(routed) => {
                info.route = routed.pattern;
                let request = head.request(&info, self.bytes(&body));
                match context.server.service.answer_now(routed, &request) {
                    Some(response) => response,
                    None if self.hand_on(context, head, body, Some(routed), &info) => return,
                    None => {
                        context.reject(Rejection::Overloaded);
                        Error::Overloaded.response()
                    }
                }
            }
            Err(_) if context.server.status.is_probe(head.path()) => {
                info.route = PROBE;
                if self.hand_on(context, head, body, None, &info) {
                    return;
                }
                Error::Overloaded.response()
            }
            Err((error, label)) => {
                info.route = label;
                error.response()
            }
        };
        self.respond(context, &response, &info, context.server.service.may_be_stored(head.path()));
    }

    fn bytes<'a>(&'a self, body: &'a Source<'_>) -> &'a [u8] {
        match body {
            Source::Input(range) => &self.input[range.clone()],
            Source::Decoded(body) => body,
        }
    }

    /// Into the queue, unless that is full.
    fn hand_on(
        &mut self,
        context: &ConnectionContext,
        head: &Head,
        body: Source<'_>,
        routed: Option<Routed>,
        info: &RequestInfo,
    ) -> bool {
        let body = self.bytes(&body);
        let job = Job {
            peer: Arc::clone(&self.peer),
            plain: head.plain_request(body),
            authorization: head.authorization.clone(),
            content_type: head.content_type.clone(),
            has_content_coding: head.has_content_coding,
            routed,
            info: info.clone(),
        };
        let in_flight = &context.server.status.metrics.requests_in_flight;
        // First of all, since a worker may be done before the next line.
        let before = mem::replace(&mut self.phase, Phase::Serving);
        self.serving = Some(info.clone());
        self.peer.hand_over();
        in_flight.inc();
        let queued = context.server.queue_of(info).push(job);
        if !queued {
            self.peer.take_back(info.at, |_| true);
            in_flight.dec();
            self.phase = before;
        }
        queued
    }

    /// Answers on the event loop's own thread.
    fn respond(
        &mut self,
        context: &ConnectionContext,
        response: &Response,
        info: &RequestInfo,
        may_be_stored: bool,
    ) {
        let close = !info.keep_alive || context.draining.is_some();
        response::encode(response, info.framing(close, !may_be_stored), &mut self.output);
        self.closing |= close;
        context.server.status.answered(info, response, info.at.elapsed());
        self.phase = Phase::Writing(Instant::now());
    }

    /// Answers what is no request, or came too late, and ends the connection.
    fn refuse(&mut self, context: &mut ConnectionContext, error: &Error) {
        let refusable = self.reading.take().unwrap_or_else(|| {
            let input = &self.input[self.start..];
            Refusable { request_id: head::request_id(input), is_head: head::is_head(input) }
        });
        let now = Instant::now();
        let info = RequestInfo {
            request_id: refusable.request_id.unwrap_or_else(|| context.request_ids.fresh()).into(),
            method: if refusable.is_head { "HEAD" } else { head::OTHER_METHOD },
            route: "malformed",
            keep_alive: false,
            is_1_0: false,
            client: self.peer.address.ip().to_canonical(),
            at: now,
            deadline: now,
        };
        // Whatever it was may have been for a path under /auth.
        self.respond(context, &error.response(), &info, false);
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

    fn read(&mut self, context: &mut ConnectionContext) -> io::Result<usize> {
        let count = loop {
            match (&self.peer.stream).read(&mut context.scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.drained = count < context.scratch.len() && !self.finished;
        let new = &context.scratch[..count];
        // A head ends with a line: without a new line end it is as unfinished as before, so a client that sends byte
        // by byte costs no parsing. The first bytes are always looked at, since most rubbish shows at once.
        self.unfinished = self.head.is_none()
            && !self.input.is_empty()
            && !new.contains(&b'\n')
            && self.input.len() - self.start + count < head::HEAD_LIMIT;
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
    fn end(&mut self, context: &mut ConnectionContext) -> NextAction {
        if self.peer.stream.shutdown(Shutdown::Write).is_err() {
            return NextAction::End;
        }
        self.input = Vec::new();
        self.start = 0;
        self.phase = Phase::Lingering(Instant::now());
        self.linger(context)
    }

    fn linger(&mut self, context: &mut ConnectionContext) -> NextAction {
        loop {
            match (&self.peer.stream).read(&mut context.scratch) {
                Ok(0) => return NextAction::End,
                Ok(count) => {
                    self.thrown_away += count;
                    if self.thrown_away > LINGER_BYTES {
                        return NextAction::End;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return NextAction::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return NextAction::End,
            }
        }
    }

    /// Looks at the deadlines; called a few times a second.
    pub fn tick(&mut self, context: &mut ConnectionContext, now: Instant) -> NextAction {
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let ends_drain =
            |since: Instant| context.draining.is_some_and(|began| over(since.max(began), DRAIN_IDLE));
        let idle_is_over = |since: Instant| ends_drain(since) || over(since, context.rules.deadlines.idle);
        match self.phase {
            Phase::New(since) if over(since, context.rules.deadlines.request) => {
                context.reject(Rejection::TooSlow);
                NextAction::End
            }
            Phase::New(since) if ends_drain(since) => NextAction::End,
            Phase::Idle(since) if idle_is_over(since) => NextAction::End,
            Phase::Reading(since) if over(since, context.rules.deadlines.request) => {
                context.reject(Rejection::TooSlow);
                self.refuse(context, &Error::RequestTimeout);
                self.advance(context)
            }
            Phase::Writing(since) if over(since, context.rules.deadlines.write) => {
                context.reject(Rejection::TooSlow);
                NextAction::End
            }
            Phase::Lingering(since) if over(since, LINGER) => NextAction::End,
            Phase::Serving => match self.peer.idle_since() {
                Some(since) if idle_is_over(since) => NextAction::End,
                Some(_) => NextAction::Wait,
                None => self.lose_patience(context, now),
            },
            _ => NextAction::Wait,
        }
    }

    /// The worker, or the database behind it, took too long: the client is told so, and what the worker says later
    /// is dropped.
    fn lose_patience(&mut self, context: &mut ConnectionContext, now: Instant) -> NextAction {
        let Some(info) = &self.serving else { return NextAction::Wait };
        let waited = now.saturating_duration_since(info.at);
        let is_over = |stage| {
            waited
                >= match info {
                    RequestInfo { route: PROBE, .. } => PROBE_PATIENCE,
                    change if change.is_change() && stage != Stage::Queued => {
                        context.rules.deadlines.answer_to_change
                    }
                    change if change.is_change() || context.server.service.database_answers() => {
                        context.rules.deadlines.answer
                    }
                    _ => context.rules.deadlines.answer.min(PATIENCE_WHEN_AWAY),
                }
        };
        let Some(stage) = self.peer.take_back(now, is_over) else { return NextAction::Wait };
        context.server.status.metrics.requests_in_flight.dec();
        if let Some(info) = self.serving.take() {
            let error = match stage {
                Stage::Begun | Stage::Parked if info.is_change() => Error::OutcomeUnknown,
                _ => Error::NoAnswer,
            };
            self.respond(context, &error.response(), &RequestInfo { keep_alive: false, ..info }, false);
        }
        self.advance(context)
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
