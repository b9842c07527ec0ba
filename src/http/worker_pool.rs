//! The fixed pool. Each worker pulls its requests from a tiny_http connection of its own and answers in one write.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::completions::{Completion, CompletionQueue, Outcome};
use super::error::Error;
use super::parked_response::ParkedResponse;
use super::peer::Peer;
use super::queue::{Job, Queue, Step};
use super::request::{Request, RequestInfo};
use super::response::{self, Response};
use super::router::Service;
use super::server_status::ServerStatus;
use super::tiny_http_pair::TinyHttpPair;
use crate::background::restart_on_panic;
use crate::metrics::Rejection;

/// A request that waited for longer, while others wait behind it, is turned away instead of served: a request that
/// comes now is served soon. One that no other waits behind was late for another reason, such as a busy machine, and is
/// served.
const QUEUE_WAIT_LIMIT: Duration = Duration::from_millis(500);

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

impl ServerContext {
    /// Where a request waits for a worker.
    pub fn queue_of(&self, info: &RequestInfo) -> &Queue {
        if info.is_change { &self.changes } else { &self.reads }
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
    let pairs = TinyHttpPair::open(directory, counts.reads + counts.changes)?;
    pairs
        .into_iter()
        .enumerate()
        .map(|(number, pair)| {
            let server = Arc::clone(server);
            let directory = directory.to_owned();
            let changes = number >= counts.reads;
            let name =
                if changes { format!("change-{}", number - counts.reads) } else { format!("read-{number}") };
            let mut pair = Some(pair);
            std::thread::Builder::new().name(name).spawn(move || {
                let queue = if changes { &server.changes } else { &server.reads };
                restart_on_panic(|| work(&server, queue, pair.take(), &directory));
            })
        })
        .collect()
}

fn work(server: &Arc<ServerContext>, queue: &Queue, mut pair: Option<TinyHttpPair>, directory: &Path) {
    let mut out = Vec::new();
    while let Some((mut job, has_followers)) = queue.pop() {
        if !job.peer.begin() {
            continue;
        }
        let response = if has_followers && job.info.read_at.elapsed() > QUEUE_WAIT_LIMIT {
            server.status.metrics.rejected(Rejection::Overloaded);
            Some(Error::Overloaded.response())
        } else {
            if pair.is_none() {
                let opened = TinyHttpPair::open(directory, 1)
                    .inspect_err(|error| log::error!("no socket pair: {error}"));
                pair = opened.ok().and_then(|mut pairs| pairs.pop());
            }
            match answer(server, pair.as_mut(), &mut job) {
                Ok(response) => response,
                Err(error) => {
                    pair = None;
                    log::error!(request_id = &*job.info.request_id; "internal error: {error}");
                    Some(Error::Internal.response())
                }
            }
        };
        match response {
            None if job.peer.claim() => {
                server.status.metrics.requests_in_flight.dec();
                let (token, outcome) = (job.peer.token, Outcome::Authorized);
                server.completions.post(Completion { token, outcome });
            }
            None => {}
            Some(response) if response.park.is_some() => {
                ParkedResponse::park(server, job.peer, job.info, response);
            }
            Some(response) => send(server, &job.peer, &job.info, response, &mut out),
        }
    }
}

/// Pulls the request out of tiny_http and has it handled. `None`: the client may send the body. What went wrong beyond a handler's own errors comes
/// back as text for the log; the tiny_http connection must not be used again then.
fn answer(
    server: &ServerContext,
    pair: Option<&mut TinyHttpPair>,
    job: &mut Job,
) -> Result<Option<Response>, String> {
    let pair = pair.ok_or("no tiny_http connection")?;
    catch_unwind(AssertUnwindSafe(|| {
        let mut request = pair.pull(&job.tiny_http_bytes)?;
        let mut body = Vec::new();
        request
            .as_reader()
            .read_to_end(&mut body)
            .map_err(|error| format!("cannot read the body: {error}"))?;
        let (path, query) = match request.url().split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.url(), None),
        };
        let upload = match &mut job.step {
            Step::Answer(upload) => upload.take(),
            Step::Authorize(_) => None,
        };
        let whole = Request {
            id: &job.info.request_id,
            path,
            query,
            authorization: job.authorization.as_deref(),
            content_type: job.content_type.as_deref(),
            has_content_coding: job.has_content_coding,
            body: &body,
            if_none_match: job.if_none_match.as_deref(),
            idempotency_key: job.idempotency_key.as_deref(),
            upload: Cell::new(upload),
            client: job.info.client,
            deadline: job.info.deadline,
        };
        let response = match job.step {
            Step::Authorize(routed) => server.service.refusal(routed, &whole),
            Step::Answer(_) => Some(server.service.answer(job.routed, &whole)),
        };
        // Without this tiny_http would answer 500 to the other end of the pair.
        drop(request.into_writer());
        Ok(response)
    }))
    .unwrap_or_else(|_| Err("a handler panicked".to_owned()))
}

/// Writes the answer, unless its time is up and the event loop has answered already. Then `if_undelivered` is called.
pub fn send(
    server: &ServerContext,
    peer: &Peer,
    info: &RequestInfo,
    mut response: Response,
    out: &mut Vec<u8>,
) {
    let is_given = peer.claim() && write(server, peer, info, &mut response, out);
    if let Some(if_undelivered) = response.if_undelivered.take().filter(|_| is_given) {
        if_undelivered.disarm();
    }
}

/// `false`: the client is gone.
fn write(
    server: &ServerContext,
    peer: &Peer,
    info: &RequestInfo,
    response: &mut Response,
    out: &mut Vec<u8>,
) -> bool {
    let close = !info.keep_alive || server.status.is_draining();
    out.clear();
    response::encode(response, info.framing(close, true), out);
    // Counted before the client can see the answer, so that a client that asks for metrics next finds it there.
    let now = Instant::now();
    server.status.metrics.requests_in_flight.dec();
    server.status.answered(info, response, now.duration_since(info.read_at));
    let (rest, close, is_there) = match peer.write(out) {
        Ok(written) => (out[written..].to_vec(), close, true),
        Err(_) => (Vec::new(), true, false),
    };
    let download = response.download.take().filter(|_| is_there && info.method != "HEAD");
    // What is left to do comes before the next request: the turn is the event loop's only once it has collected this.
    let is_over = rest.is_empty() && !close && download.is_none();
    if !is_over || peer.release(now) {
        let outcome = Outcome::Answered { rest, download, close };
        server.completions.post(Completion { token: peer.token, outcome });
    }
    is_there
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use mio::Token;
    use prometheus::IntGauge;

    use super::*;
    use crate::http::peer::Stage;
    use crate::http::router::{TEST_ROUTE, TestService};

    impl ServerContext {
        /// With no request in it yet, and the poll that its completions wake.
        pub fn for_tests(queue: usize, service: Arc<dyn Service>) -> (mio::Poll, Arc<ServerContext>) {
            let (poll, waker) = crate::http::event_loop::prepare().unwrap();
            let status = Arc::new(ServerStatus::new(Arc::new(crate::metrics::Metrics::new().unwrap())));
            let depth = status.metrics.queue_depth.clone();
            let (reads, changes, completions) =
                (Queue::new(queue, depth.clone()), Queue::new(queue, depth), CompletionQueue::new(waker));
            (poll, Arc::new(ServerContext { reads, changes, completions, status, service }))
        }
    }

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
            is_change: false,
            is_upload: false,
            keep_alive: false,
            is_1_0: false,
            client: peer.address.ip(),
            read_at: Instant::now(),
            deadline: Instant::now() + Duration::from_secs(10),
        };
        Job {
            peer,
            tiny_http_bytes: format!("GET {path} HTTP/1.1\r\n\r\n").into_bytes(),
            authorization: None,
            content_type: None,
            if_none_match: None,
            idempotency_key: None,
            has_content_coding: false,
            routed: Some(TEST_ROUTE),
            step: Step::Answer(None),
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
        assert!(matches!(done.outcome, Outcome::Answered { rest, close: false, .. } if !rest.is_empty()));
        assert!(peer.event_loop_turn().is_none(), "the rest of the answer is still to be written");
        let (_client, peer, done) = done_with("/short", false);
        assert!(matches!(done.outcome, Outcome::Answered { rest, close: true, .. } if rest.is_empty()));
        assert!(peer.event_loop_turn().is_none(), "the connection is still to be ended");
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }

    #[test]
    fn a_request_that_was_given_up_keeps_no_other_out() {
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
        let depth = IntGauge::new("depth", "depth").unwrap();
        let queue = Queue::new(2, depth.clone());
        let (_client, peer) = connection();
        let push = |id| queue.push(job(Arc::clone(&peer), "/", id));
        assert_eq!([push("1"), push("2"), push("3")], [true, true, false]);
        assert_eq!(depth.get(), 2);
        queue.close();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(job, _)| job.info.request_id).collect();
        assert_eq!(order, ["1".into(), "2".into()]);
    }
}
