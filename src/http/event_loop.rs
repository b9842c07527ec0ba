//! The event loop: one thread that owns the sockets. It accepts connections, keeps their deadlines, and drains; only whole,
//! well-formed requests go on to the workers.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::connection::{Connection, ConnectionContext, KEPT_BUFFER, NextAction, Rules};
use super::worker_pool::ServerContext;
use crate::metrics::Rejection;
use crate::rate_limit::RateLimit;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST_CONNECTION: usize = 2;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Sockets that get their turn before newcomers are looked at.
const ROUND: usize = 256;
/// Connections accepted before those that are open get their turn again.
const ACCEPT_BATCH: usize = 64;
/// Batches that are still accepted when intake stops: a whole backlog.
const LAST_BATCHES: usize = 64;
/// Connections that give up their place at once when there is none left: a scan for each newcomer would be dear.
const EVICT_BATCH: usize = 32;
/// Memory that all clients together make us hold, in bytes; beyond it the slowest of those who hold some go.
const HELD_LIMIT: usize = 32 * 1024 * 1024;
/// Between two lines about newcomers that cannot be taken in.
const ERROR_LINE_EVERY: Duration = Duration::from_secs(5);

/// What bounds the event loop, and which proxies it trusts.
pub struct Limits {
    pub connections: usize,
    pub rules: Rules,
    /// Where large bodies are kept while they are received and used.
    pub upload_directory: PathBuf,
    /// The listening socket outlives us, so a client that has connected when we drain is left to our successor.
    pub has_successor: bool,
}

pub struct EventLoop {
    poll: Poll,
    listener: Option<mio::net::TcpListener>,
    connections: HashMap<Token, Connection>,
    next_token: usize,
    context: ConnectionContext,
    limit: usize,
    held: usize,
    has_successor: bool,
    /// The listener has, or may have, more connections than we took.
    accept_more: bool,
    /// Connections whose turn was over before they were done.
    yielded: HashSet<Token>,
    error_lines: RateLimit,
    /// The last accept failed for want of something, so it is tried again at the next tick.
    accept_failed: bool,
}

/// Makes the poll and the waker first: the completion queue needs the latter before the event loop can be made.
///
/// # Errors
/// The system is out of descriptors.
pub fn prepare() -> io::Result<(Poll, Waker)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    Ok((poll, waker))
}

impl EventLoop {
    /// # Errors
    /// The listener cannot be watched, or the system has no thread left.
    pub fn new(
        poll: Poll,
        listener: TcpListener,
        limits: Limits,
        server: Arc<ServerContext>,
    ) -> io::Result<EventLoop> {
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(EventLoop {
            poll,
            listener: Some(listener),
            connections: HashMap::new(),
            next_token: FIRST_CONNECTION,
            context: ConnectionContext::new(server, limits.rules, limits.upload_directory)?,
            limit: limits.connections,
            held: 0,
            has_successor: limits.has_successor,
            accept_more: true,
            yielded: HashSet::new(),
            error_lines: RateLimit::new(1, ERROR_LINE_EVERY),
            accept_failed: false,
        })
    }

    /// Serves until draining has begun and every connection has ended, or until `drain_limit` after it began.
    /// How many connections were cut off then.
    ///
    /// # Errors
    /// The system's poll fails, which it does not.
    pub fn run(mut self, drain_limit: Duration) -> io::Result<usize> {
        let mut events = Events::with_capacity(ROUND);
        let mut next_tick = Instant::now() + TICK;
        let mut drain_until = None;
        loop {
            let wait = if self.accept_more || !self.yielded.is_empty() {
                Some(Duration::ZERO)
            } else if self.connections.is_empty() && !self.accept_failed {
                None
            } else {
                Some(next_tick.saturating_duration_since(Instant::now()))
            };
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_more = true,
                    WAKER => self.collect(),
                    token => {
                        let gone = event.is_write_closed() || event.is_error();
                        let finished = event.is_read_closed() || gone;
                        self.visit(token, |connection, context| connection.ready(context, finished, gone));
                    }
                }
            }
            for token in std::mem::take(&mut self.yielded) {
                self.visit(token, Connection::advance);
            }
            if self.accept_more {
                self.accept();
            }
            if drain_until.is_none() && self.context.server.status.is_draining() {
                drain_until = Some(Instant::now() + drain_limit);
                self.stop_intake();
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick(now);
            }
            match drain_until {
                Some(_) if self.connections.is_empty() => return Ok(0),
                Some(until) if now >= until => return Ok(self.connections.len()),
                _ => {}
            }
        }
    }

    fn collect(&mut self) {
        if let Some(rules) = self.context.server.completions.collect_rules() {
            self.context.rules = rules;
        }
        for completion in self.context.server.completions.collect() {
            self.visit(completion.token, |connection, context| connection.complete(context, completion));
        }
    }

    fn visit(
        &mut self,
        token: Token,
        act: impl FnOnce(&mut Connection, &mut ConnectionContext) -> NextAction,
    ) {
        // It may have ended earlier in this round; tokens are never given twice.
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let before = connection.held();
        // A bug that one client's bytes bring to light ends that client's connection, not the others.
        let next = catch_unwind(AssertUnwindSafe(|| act(connection, &mut self.context)))
            .inspect_err(|_| log::error!("internal error: the event loop panicked; one connection is ended"))
            .unwrap_or(NextAction::End);
        self.held = self.held + connection.held() - before;
        match next {
            NextAction::End => return self.remove(token),
            NextAction::Yield => _ = self.yielded.insert(token),
            NextAction::Wait => {}
        }
        if self.held > HELD_LIMIT {
            self.evict(KEPT_BUFFER + 1);
        }
    }

    /// A worker may still hold the socket: it is taken out of the poll here and closed when the last one lets go.
    fn remove(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.remove(&token) {
            self.held -= connection.held();
            let _ = connection.peer().stream.shutdown(std::net::Shutdown::Read);
            if let Some(stream) = connection.stream() {
                let _ = self.poll.registry().deregister(stream);
            }
            self.context.server.status.metrics.connections.dec();
        }
    }

    fn accept(&mut self) {
        self.accept_more = false;
        self.accept_failed = false;
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, address)) => {
                    if self.connections.len() >= self.limit {
                        self.evict(0);
                    }
                    if self.connections.len() >= self.limit {
                        // Every connection is being served. Closing tells the newcomer, or the proxy before us, to come
                        // again.
                        self.context.server.status.metrics.rejected(Rejection::TooManyConnections);
                        continue;
                    }
                    self.register(stream, address);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // The client was gone before we came to it.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => {
                        // Out of descriptors or memory: a connection has to end. Tried again at the next tick.
                        if self.error_lines.allows(Instant::now()) {
                            log::warn!("cannot accept a connection: {error}");
                        }
                        self.evict(0);
                        self.accept_failed = true;
                        return;
                    }
                },
            }
        }
        self.accept_more = true;
    }

    fn register(&mut self, mut stream: mio::net::TcpStream, address: std::net::SocketAddr) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            log::warn!("cannot watch a connection: {error}");
            return;
        }
        self.connections.insert(token, Connection::new(stream, address, token, Instant::now()));
        self.context.server.status.metrics.connections.inc();
        // Its request has mostly come with it, and need not wait behind all that is ready at the next poll.
        self.visit(token, Connection::advance);
    }

    /// Ends those who have kept us waiting for longest, of those who hold so many bytes: first connections without a
    /// request, then yielded ones.
    fn evict(&mut self, held: usize) {
        let mut waiting: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.held() >= held)
            .filter_map(|(token, connection)| {
                connection.waits_for_client().map(|(idle, since)| (!idle, since, *token))
            })
            .collect();
        let count = EVICT_BATCH.min(waiting.len());
        if count == 0 {
            return;
        }
        waiting.select_nth_unstable(count - 1);
        for (_, _, token) in &waiting[..count] {
            self.context.server.status.metrics.rejected(Rejection::Evicted);
            self.remove(*token);
        }
    }

    fn tick(&mut self, now: Instant) {
        // A failed accept is tried again here; a listener without newcomers says so at once.
        self.accept_more = self.listener.is_some();
        let tokens: Vec<Token> = self.connections.keys().copied().collect();
        for token in tokens {
            self.visit(token, |connection, context| connection.tick(context, now));
        }
    }

    /// Accepts the connections that are already made, unless a successor will, and then no more.
    fn stop_intake(&mut self) {
        // First of all: who is still let in is answered at once, and hears that its connection ends.
        self.context.draining = Some(Instant::now());
        self.accept_more = !self.has_successor;
        // Bounded, or a flood of newcomers would keep us here.
        for _ in 0..LAST_BATCHES {
            if self.accept_more {
                self.accept();
            }
        }
        if let Some(mut listener) = self.listener.take() {
            let _ = self.poll.registry().deregister(&mut listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;
    use crate::http::connection::Deadlines;
    use crate::http::request::Request;
    use crate::http::response::Response;
    use crate::http::router::TestService;
    use crate::http::worker_pool::{self, Counts};
    use crate::networks::Networks;

    fn event_loop(handle: fn(&Request<'_>) -> Response) -> EventLoop {
        let (poll, server) = ServerContext::for_tests(1, Arc::new(TestService(handle)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = Duration::from_secs(1);
        let deadlines = Deadlines {
            request: second,
            idle: second,
            write: second,
            answer: second,
            answer_to_change: second,
            answer_to_upload: second,
        };
        let rules = Rules { deadlines, trusted_proxies: Networks::default() };
        EventLoop::new(
            poll,
            listener,
            Limits { connections: 8, rules, upload_directory: std::env::temp_dir(), has_successor: false },
            server,
        )
        .unwrap()
    }

    #[test]
    fn a_panic_ends_one_connection() {
        let mut event_loop = event_loop(|_| Response::no_content());
        let address = event_loop.listener.as_ref().unwrap().local_addr().unwrap();
        let mut clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
        while event_loop.connections.len() < 2 {
            event_loop.accept();
        }
        let first = Token(FIRST_CONNECTION);
        event_loop.visit(first, |_, _| panic!("on purpose"));
        assert_eq!(clients[0].read(&mut [0; 1]).unwrap(), 0, "its end is told");
        assert!(!event_loop.connections.contains_key(&first) && event_loop.held == 0);
        let second = Token(FIRST_CONNECTION + 1);
        std::io::Write::write_all(&mut clients[1], b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        event_loop.visit(second, Connection::advance);
        let mut answer = [0; 15];
        clients[1].read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 204 No");
    }

    #[test]
    fn a_patch_is_a_change_with_a_body() {
        let mut event_loop = event_loop(|request| {
            let said = [request.content_type.unwrap_or("none").as_bytes(), b" ", request.body].concat();
            Response::bytes(200, "text/plain", said)
        });
        let server = Arc::clone(&event_loop.context.server);
        let workers =
            worker_pool::start(&server, Counts { reads: 0, changes: 1 }, &std::env::temp_dir()).unwrap();
        let address = event_loop.listener.as_ref().unwrap().local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request =
            b"PATCH /t HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        std::io::Write::write_all(&mut client, request).unwrap();
        while event_loop.connections.is_empty() {
            event_loop.accept();
        }
        event_loop.visit(Token(FIRST_CONNECTION), Connection::advance);
        let mut answer = [0; 4096];
        let count = client.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\napplication/json {}"),
            "{answer}"
        );
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let metrics = String::from_utf8(server.status.rendered_metrics(Instant::now())).unwrap();
        let counted = "cloacina_http_requests_total{method=\"PATCH\",route=\"/test\",status=\"200\"} 1";
        assert!(metrics.contains(counted), "{metrics}");
    }
}
