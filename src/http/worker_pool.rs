//! The fixed pool and its bounded queue. Each worker pulls its requests from a tiny_http connection of its own, over
//! a socket pair that no client can reach, and answers in one write.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Token, Waker};
use prometheus::IntGauge;

use super::connection::Rules;
use super::error::Error;
use super::peer::{Peer, Stage};
use super::request::{Request, RequestInfo};
use super::response::{self, Response};
use super::router::{Routed, Service};
use super::server_status::ServerStatus;
use super::waiters::Waiter;
use crate::background::restart_on_panic;
use crate::metrics::Rejection;
use crate::random;

/// A request that waited for longer, while others wait behind it, is turned away instead of served: a request that
/// comes now is served soon. One that no other waits behind was late for another reason, such as a busy machine, and is
/// served.
const QUEUE_WAIT_LIMIT: Duration = Duration::from_millis(500);
/// A worker's own socket pair never blocks for long, unless something is very wrong.
const PAIR_TIMEOUT: Duration = Duration::from_secs(2);

/// A vetted request on its way to a worker.
pub struct Job {
    pub peer: Arc<Peer>,
    /// `Head::plain_request`.
    pub plain: Vec<u8>,
    /// Beside it, since tiny_http takes every line apart letter by letter.
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub has_content_coding: bool,
    /// `None` for the server's own probe.
    pub routed: Option<Routed>,
    pub info: RequestInfo,
}

/// What a worker tells the event loop when the event loop has something left to do with the connection.
pub struct Completion {
    pub token: Token,
    /// What the socket would not take at once.
    pub rest: Vec<u8>,
    pub close: bool,
}

/// First in, first out, with a bound. One lock, one condition, and no thread woken that would find nothing to do.
pub struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
    limit: usize,
    /// How many wait in this queue and in others that share it.
    depth: IntGauge,
}

struct QueueState {
    jobs: VecDeque<Job>,
    /// How many workers have taken since the start.
    taken: u64,
    closed: bool,
    /// Workers that wait, also those that were woken and have not come to it yet.
    waiting: usize,
    /// Those of them that were woken.
    woken: usize,
}

impl Queue {
    pub fn new(limit: usize, depth: IntGauge) -> Queue {
        let state = QueueState { jobs: VecDeque::new(), taken: 0, closed: false, waiting: 0, woken: 0 };
        Queue { state: Mutex::new(state), filled: Condvar::new(), limit, depth }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Appends a job; `false` when the queue is full.
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.state();
        // While every worker waits for the database, those whom the event loop has answered itself keep nobody out.
        while state.jobs.len() >= self.limit
            && state.jobs.front().is_some_and(|oldest| oldest.peer.stage() != Some(Stage::Queued))
        {
            state.jobs.pop_front();
            self.depth.dec();
        }
        if state.jobs.len() >= self.limit {
            return false;
        }
        state.jobs.push_back(job);
        self.depth.inc();
        // A wake-up costs more than most requests, and whoever is at work comes back for the next job by himself.
        let wakes = state.woken < state.waiting.min(state.jobs.len());
        state.woken += usize::from(wakes);
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
        true
    }

    /// Waits for a job, and says whether others wait behind it; `None` once the queue is closed and empty.
    fn pop(&self) -> Option<(Job, bool)> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.taken += 1;
                self.depth.dec();
                return Some((job, !state.jobs.is_empty()));
            }
            if state.closed {
                return None;
            }
            state.waiting += 1;
            state = self.filled.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            state.waiting -= 1;
            // Not by one of ours, should the system wake it for no reason: then somebody is woken once too often.
            state.woken = state.woken.saturating_sub(1);
        }
    }

    /// Lets the workers end once they have done what is queued.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }

    /// How many jobs workers have taken so far: it stands still when they do.
    pub fn taken(&self) -> u64 {
        self.state().taken
    }
}

/// Where workers leave word for the event loop.
pub struct CompletionQueue {
    done: Mutex<Vec<Completion>>,
    rules: Mutex<Option<Rules>>,
    waker: Waker,
}

impl CompletionQueue {
    pub fn new(waker: Waker) -> CompletionQueue {
        CompletionQueue { done: Mutex::new(Vec::new()), rules: Mutex::new(None), waker }
    }

    fn post(&self, done: Completion) {
        self.done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(done);
        self.wake();
    }

    /// Has the event loop go by these from now on.
    pub fn post_rules(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(rules);
        self.wake();
    }

    /// The rules that were posted last, once.
    pub fn collect_rules(&self) -> Option<Rules> {
        self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Makes the event loop look around: also at whether we are draining.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// All that was posted since the last time.
    pub fn collect(&self) -> Vec<Completion> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// What all workers share.
pub struct ServerContext {
    /// Requests that only read.
    pub reads: Queue,
    /// All others. They have workers of their own: a change may wait for a lock, or for a standby that is gone, and
    /// no number of those that do keeps a read waiting.
    pub changes: Queue,
    pub completions: CompletionQueue,
    pub status: Arc<ServerStatus>,
    pub service: Arc<dyn Service>,
}

#[cfg(test)]
impl ServerContext {
    /// With nobody in it yet, and the poll that its completions wakes.
    pub fn for_tests(queue: usize, service: Arc<dyn Service>) -> (mio::Poll, Arc<ServerContext>) {
        let (poll, waker) = super::event_loop::prepare().unwrap();
        let status = Arc::new(ServerStatus::new(Arc::new(crate::metrics::Metrics::new().unwrap())));
        let depth = status.metrics.queue_depth.clone();
        let (reads, changes, completions) =
            (Queue::new(queue, depth.clone()), Queue::new(queue, depth), CompletionQueue::new(waker));
        (poll, Arc::new(ServerContext { reads, changes, completions, status, service }))
    }
}

impl ServerContext {
    /// Where a request waits for a worker.
    pub fn queue_of(&self, info: &RequestInfo) -> &Queue {
        if info.is_change() { &self.changes } else { &self.reads }
    }

    /// Lets the workers end once they have done what is queued.
    pub fn close(&self) {
        self.reads.close();
        self.changes.close();
    }
}

/// How many workers there are.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub reads: usize,
    pub changes: usize,
}

/// Starts so many named threads. `directory` is a place where a socket's name may stand for a moment.
///
/// # Errors
/// No thread, or no socket pair, could be made; nothing runs then.
pub fn start(
    server: &Arc<ServerContext>,
    counts: Counts,
    directory: &Path,
) -> io::Result<Vec<JoinHandle<()>>> {
    let lines = Line::open(directory, counts.reads + counts.changes)?;
    lines
        .into_iter()
        .enumerate()
        .map(|(number, line)| {
            let server = Arc::clone(server);
            let directory = directory.to_owned();
            let changes = number >= counts.reads;
            let name =
                if changes { format!("change-{}", number - counts.reads) } else { format!("read-{number}") };
            let mut line = Some(line);
            std::thread::Builder::new().name(name).spawn(move || {
                let queue = if changes { &server.changes } else { &server.reads };
                restart_on_panic(|| work(&server, queue, line.take(), &directory));
            })
        })
        .collect()
}

fn work(server: &Arc<ServerContext>, queue: &Queue, mut line: Option<Line>, directory: &Path) {
    let mut out = Vec::new();
    while let Some((job, has_followers)) = queue.pop() {
        if !job.peer.begin() {
            continue;
        }
        let response = if has_followers && job.info.at.elapsed() > QUEUE_WAIT_LIMIT {
            server.status.metrics.rejected(Rejection::Overloaded);
            Error::Overloaded.response()
        } else {
            if line.is_none() {
                let opened =
                    Line::open(directory, 1).inspect_err(|error| log::error!("no socket pair: {error}"));
                line = opened.ok().and_then(|mut lines| lines.pop());
            }
            match answer(server, line.as_mut(), &job) {
                Ok(response) => response,
                Err(error) => {
                    line = None;
                    log::error!(request_id = &*job.info.request_id; "internal error: {error}");
                    Error::Internal.response()
                }
            }
        };
        if response.park.is_some() {
            Waiter::park(server, job.peer, job.info, response);
        } else {
            send(server, &job.peer, &job.info, response, &mut out);
        }
    }
}

/// Pulls the request out of tiny_http and has it handled. What went wrong beyond a handler's own errors comes back
/// as text for the log; the tiny_http connection must not be used again then.
fn answer(server: &ServerContext, line: Option<&mut Line>, job: &Job) -> Result<Response, String> {
    let line = line.ok_or("no tiny_http connection")?;
    catch_unwind(AssertUnwindSafe(|| {
        let mut request = line.pull(&job.plain)?;
        let mut body = Vec::new();
        request
            .as_reader()
            .read_to_end(&mut body)
            .map_err(|error| format!("cannot read the body: {error}"))?;
        let (path, query) = match request.url().split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.url(), None),
        };
        let whole = Request {
            id: &job.info.request_id,
            path,
            query,
            authorization: job.authorization.as_deref(),
            content_type: job.content_type.as_deref(),
            has_content_coding: job.has_content_coding,
            body: &body,
            client: job.info.client,
            deadline: job.info.deadline,
        };
        let response = server.service.answer(job.routed, &whole);
        // Without this tiny_http would answer 500 to the other end of the pair.
        drop(request.into_writer());
        Ok(response)
    }))
    .unwrap_or_else(|_| Err("a handler panicked".to_owned()))
}

/// Writes the answer, unless its time is up and the event loop has answered already. Then `if_lost` is called.
pub fn send(
    server: &ServerContext,
    peer: &Peer,
    info: &RequestInfo,
    mut response: Response,
    out: &mut Vec<u8>,
) {
    let is_given = peer.claim() && write(server, peer, info, &response, out);
    if let Some(if_lost) = response.if_lost.take().filter(|_| is_given) {
        if_lost.disarm();
    }
}

/// `false`: the client is gone.
fn write(
    server: &ServerContext,
    peer: &Peer,
    info: &RequestInfo,
    response: &Response,
    out: &mut Vec<u8>,
) -> bool {
    let close = !info.keep_alive || server.status.is_draining();
    out.clear();
    response::encode(response, info.framing(close, true), out);
    // Counted before the client can see the answer, so that whoever asks for metrics next finds it there.
    let now = Instant::now();
    server.status.metrics.requests_in_flight.dec();
    server.status.answered(info, response, now.duration_since(info.at));
    let (rest, close, is_there) = match peer.write(out) {
        Ok(written) => (out[written..].to_vec(), close, true),
        Err(_) => (Vec::new(), true, false),
    };
    // What is left to do comes before the next request: the turn is the event loop's only once it has collected this.
    let is_over = rest.is_empty() && !close;
    if !is_over || peer.release(now) {
        server.completions.post(Completion { token: peer.token, rest, close });
    }
    is_there
}

/// A tiny_http connection and our own end of its socket pair.
struct Line {
    ours: UnixStream,
    requests: Box<dyn Iterator<Item = Result<tiny_http::Request, String>> + Send>,
}

impl Line {
    /// Makes pairs through tiny_http's public accept function: it wants a listener, so one stands in `directory` for a
    /// moment, behind mode 0700.
    fn open(directory: &Path, count: usize) -> io::Result<Vec<Line>> {
        let room = directory.join(format!(".line-{}", random::uuid()?));
        std::fs::DirBuilder::new().mode(0o700).create(&room)?;
        let opened = Line::open_in(&room, count);
        let removed = std::fs::remove_dir_all(&room);
        opened.and_then(|lines| removed.map(|()| lines))
    }

    fn open_in(room: &Path, count: usize) -> io::Result<Vec<Line>> {
        let path = room.join("s");
        let listener = tiny_http::Listener::from(UnixListener::bind(&path)?);
        let no_tls = tiny_http::SslContextWrap::build_ssl_capabilities(None).map_err(io::Error::other)?;
        let open = |_| {
            let ours = UnixStream::connect(&path)?;
            ours.set_write_timeout(Some(PAIR_TIMEOUT))?;
            let theirs = tiny_http::Server::accept_connection(&listener, &no_tls)?;
            let requests = theirs.ok_or_else(|| io::Error::other("tiny_http made no connection"))?;
            let requests = requests.map(|request| request.map_err(|error| error.to_string()));
            Ok(Line { ours, requests: Box::new(requests) })
        };
        (0..count).map(open).collect()
    }

    fn pull(&mut self, plain: &[u8]) -> Result<tiny_http::Request, String> {
        self.ours.write_all(plain).map_err(|error| format!("cannot feed tiny_http: {error}"))?;
        self.requests.next().unwrap_or_else(|| Err("tiny_http's connection has ended".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http::router::{TEST_ROUTE, TestService};

    const ONE_EACH: Counts = Counts { reads: 1, changes: 1 };

    /// A client's end, and the peer that a worker answers to.
    fn connection() -> (TcpStream, Arc<Peer>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (stream, address) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = mio::net::TcpStream::from_std(stream);
        (client, Arc::new(Peer::new(stream, address, Token(2))))
    }

    fn job(peer: Arc<Peer>, path: &str, request_id: &str) -> Job {
        peer.hand_over();
        let info = RequestInfo {
            request_id: request_id.into(),
            method: "GET",
            route: "/test",
            keep_alive: false,
            is_1_0: false,
            client: peer.address.ip(),
            at: Instant::now(),
            deadline: Instant::now() + Duration::from_secs(10),
        };
        let plain = format!("GET {path} HTTP/1.1\r\n\r\n").into_bytes();
        Job {
            peer,
            plain,
            authorization: None,
            content_type: None,
            has_content_coding: false,
            routed: Some(TEST_ROUTE),
            info,
        }
    }

    fn ask(server: &ServerContext, path: &str) -> String {
        let (mut client, peer) = connection();
        assert!(server.reads.push(job(peer, path, "the-id")));
        let mut answer = [0; 4096];
        let count = client.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }

    #[test]
    fn a_panic_is_500_and_the_worker_lives() {
        let handle = |request: &Request<'_>| {
            assert_ne!(request.path, "/panics");
            Response::bytes(200, "application/json", &b"{}"[..])
        };
        let (_poll, server) = ServerContext::for_tests(8, Arc::new(TestService(handle)));
        let workers = start(&server, ONE_EACH, &std::env::temp_dir()).unwrap();
        for _ in 0..3 {
            let panicked = ask(&server, "/panics");
            assert!(
                panicked.starts_with("HTTP/1.1 500 ") && panicked.ends_with("{\"error\":\"internal error\"}")
            );
            assert!(panicked.contains("X-Request-Id: the-id\r\n"), "{panicked}");
            assert!(ask(&server, "/fine").starts_with("HTTP/1.1 200 "));
        }
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }

    /// What a panic carries may panic itself when it is thrown away, where nothing catches that.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose, again");
        }
    }

    #[test]
    fn a_worker_that_dies_comes_back() {
        let handle = |request: &Request<'_>| {
            if request.path == "/dies" {
                std::panic::panic_any(Bomb);
            }
            Response::bytes(200, "application/json", &b"{}"[..])
        };
        let (_poll, server) = ServerContext::for_tests(8, Arc::new(TestService(handle)));
        let workers = start(&server, Counts { reads: 1, changes: 0 }, &std::env::temp_dir()).unwrap();
        let (client, peer) = connection();
        assert!(server.reads.push(job(peer, "/dies", "the-id")));
        assert!(ask(&server, "/fine").starts_with("HTTP/1.1 200 "), "by the same one");
        drop(client);
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }

    /// Else the event loop would answer the next request in the middle of this answer, or after its end.
    #[test]
    fn what_an_answer_leaves_to_do_comes_before_the_next_request() {
        let handle = |request: &Request<'_>| {
            let length = if request.path == "/long" { 64 * 1024 * 1024 } else { 2 };
            Response::bytes(200, "application/json", vec![b' '; length])
        };
        let (_poll, server) = ServerContext::for_tests(8, Arc::new(TestService(handle)));
        let workers = start(&server, ONE_EACH, &std::env::temp_dir()).unwrap();
        let done_with = |path, keep_alive| {
            let (client, peer) = connection();
            let mut job = job(Arc::clone(&peer), path, "the-id");
            job.info.keep_alive = keep_alive;
            assert!(server.reads.push(job));
            let deadline = Instant::now() + Duration::from_secs(10);
            let done = loop {
                if let Some(done) = server.completions.collect().pop() {
                    break done;
                }
                assert!(Instant::now() < deadline, "the worker leaves no word");
                std::thread::yield_now();
            };
            (client, peer, done)
        };
        let (_client, peer, done) = done_with("/long", true);
        assert!(!done.rest.is_empty() && !done.close);
        assert!(peer.event_loop_turn().is_none(), "the rest of the answer is still to be written");
        let (_client, peer, done) = done_with("/short", false);
        assert!(done.rest.is_empty() && done.close);
        assert!(peer.event_loop_turn().is_none(), "the connection is still to be ended");
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }

    #[test]
    fn who_was_given_up_keeps_nobody_out() {
        let queue = Queue::new(2, IntGauge::new("depth", "depth").unwrap());
        let ((_one, first), (_two, second), (_three, third)) = (connection(), connection(), connection());
        assert!(
            queue.push(job(Arc::clone(&first), "/", "1")) && queue.push(job(Arc::clone(&second), "/", "2"))
        );
        assert!(!queue.push(job(Arc::clone(&third), "/", "3")));
        assert_eq!(first.take_back(Instant::now(), |_| true), Some(Stage::Queued));
        assert!(queue.push(job(Arc::clone(&third), "/", "3")));
        let order = [queue.pop(), queue.pop()].map(|popped| popped.unwrap().0.info.request_id);
        assert_eq!(order, ["2".into(), "3".into()]);
    }

    #[test]
    fn the_queue_is_bounded_and_keeps_its_order() {
        let queue = Queue::new(2, IntGauge::new("depth", "depth").unwrap());
        let (_client, peer) = connection();
        let push = |id| queue.push(job(Arc::clone(&peer), "/", id));
        assert_eq!([push("1"), push("2"), push("3")], [true, true, false]);
        assert_eq!(queue.depth.get(), 2);
        queue.close();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(job, _)| job.info.request_id).collect();
        assert_eq!(order, ["1".into(), "2".into()]);
    }
}
