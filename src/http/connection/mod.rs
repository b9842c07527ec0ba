//! One client's connection as the event loop sees it: what it waits for, and how it goes on. Never waits itself.

mod download;
mod read;
mod timeouts;
mod upload;
mod write;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use self::read::Receiving;
use super::completions::{Completion, Outcome};
use super::download::{Download, Downloads};
use super::error::Error;
use super::peer::{Peer, Stage};
use super::request::RequestInfo;
use super::upload::Uploads;
use super::worker_pool::ServerContext;
use crate::metrics::Rejection;
use crate::networks::Networks;

/// An input buffer larger than this is given back when it is empty.
pub const KEPT_BUFFER: usize = 4 * 1024;
/// Reads and answers that one connection gets before all others have had their turn.
const TURN: usize = 64;

/// Deadlines, each for the whole of its thing.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Head and body, from the first byte; also for the first byte of a new connection. Of a body that is a stream, so
    /// much has to come in this time, again and again.
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
    /// The same for an upload that has come whole: it waits for those before it.
    pub answer_to_upload: Duration,
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
    uploads: Uploads,
    downloads: Downloads,
}

impl ConnectionContext {
    /// # Errors
    /// The system has no thread left.
    pub fn new(
        server: Arc<ServerContext>,
        rules: Rules,
        upload_directory: PathBuf,
    ) -> io::Result<ConnectionContext> {
        let uploads = Uploads::start(&server, upload_directory)?;
        let downloads = Downloads::start(&server)?;
        let scratch = vec![0; 16 * 1024].into_boxed_slice();
        Ok(ConnectionContext { server, rules, draining: None, scratch, uploads, downloads })
    }

    fn reject(&self, reason: Rejection) {
        self.server.status.metrics.rejected(reason);
    }
}

/// What a connection waits for. Each instant is when that began.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The first byte of the first request.
    New(Instant),
    /// The first byte of the next request.
    Idle(Instant),
    /// The rest of a request.
    Reading(Instant),
    /// The rest of an upload.
    Uploading,
    /// The disk, to take a piece of an upload.
    Storing(Instant),
    /// A worker's answer, or, once that is given, the first byte of the next request.
    Serving,
    /// The next piece of a download.
    Fetching(Instant),
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
    /// The request whose body is still to come.
    receiving: Option<Box<Receiving>>,
    /// The request that a worker has, or had last.
    serving: Option<RequestInfo>,
    /// The last read brought nothing that could complete the head.
    head_incomplete: bool,
    /// Nothing is left to read until the poll says so: the last read emptied the socket (epoll(7), question 9).
    socket_empty: bool,
    /// The poll said that the client sends no more; reads go on until they say so as well.
    client_finished: bool,
    /// Answers that the socket would not take at once.
    output: Vec<u8>,
    /// What follows on `output`.
    download: Option<Download>,
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
            receiving: None,
            serving: None,
            head_incomplete: false,
            socket_empty: false,
            client_finished: false,
            output: Vec::new(),
            download: None,
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
        let decoded = self.receiving.as_ref().map_or(0, |receiving| receiving.chunks.body.capacity());
        self.input.capacity() + self.output.capacity() + decoded
    }

    /// For admission: since when this connection waits for its client, and whether nothing is lost if it ends.
    pub fn waits_for_client(&self) -> Option<(bool, Instant)> {
        match self.phase {
            Phase::New(since) | Phase::Idle(since) => Some((true, since)),
            Phase::Reading(since) | Phase::Writing(since) => Some((false, since)),
            Phase::Lingering(since) => Some((true, since)),
            // They are few, and end when their client stalls.
            Phase::Uploading | Phase::Storing(_) | Phase::Fetching(_) => None,
            // A client that has finished sending may be gone, and an answer that waits would keep its place for it.
            Phase::Serving if self.client_finished && matches!(self.peer.stage(), Some(Stage::Parked(_))) => {
                self.serving.as_ref().map(|info| (true, info.read_at))
            }
            Phase::Serving => self.peer.idle_since().map(|since| (true, since)),
        }
    }

    /// The socket is readable, writable, or both; or the client has finished sending, or is gone.
    pub fn ready(&mut self, context: &mut ConnectionContext, finished: bool, gone: bool) -> NextAction {
        self.socket_empty = false;
        self.client_finished |= finished;
        if gone && matches!(self.phase, Phase::Serving | Phase::Storing(_) | Phase::Fetching(_)) {
            return NextAction::End;
        }
        self.advance(context)
    }

    /// A worker, or the thread that writes uploads, has left something to do.
    pub fn complete(&mut self, context: &mut ConnectionContext, completion: Completion) -> NextAction {
        let now = Instant::now();
        match completion.outcome {
            Outcome::Answered { rest, download, close } => {
                let is_more = !rest.is_empty() || download.is_some();
                if close || is_more {
                    self.peer.release(now);
                }
                self.closing |= close;
                if is_more {
                    self.output = rest;
                    self.download = download;
                    self.phase = Phase::Writing(now);
                }
            }
            Outcome::Authorized => {
                self.peer.release(now);
                self.begin_upload(context);
            }
            Outcome::Stored(stored) => self.stored(context, stored),
            Outcome::Fetched(fetched) => {
                if !self.fetched(fetched) {
                    return NextAction::End;
                }
            }
        }
        self.advance(context)
    }

    /// Goes on until the client or a worker has to move, or until its turn is over.
    pub fn advance(&mut self, context: &mut ConnectionContext) -> NextAction {
        for _ in 0..TURN {
            if let Phase::Lingering(_) = self.phase {
                return self.linger(context);
            }
            if let Phase::Storing(_) | Phase::Fetching(_) = self.phase {
                return NextAction::Wait;
            }
            if matches!(self.phase, Phase::Serving) {
                // Asked to wake us, a worker would do so for nothing: the client waits for its answer.
                if self.socket_empty && self.start == self.input.len() && !self.closing {
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
            if let Some(download) = self.download.take() {
                self.fetch(context, download);
                return NextAction::Wait;
            }
            if self.closing {
                return self.half_close(context);
            }
            match self.next_request(context) {
                Ok(true) => {}
                Ok(false) if self.socket_empty => return NextAction::Wait,
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
}
