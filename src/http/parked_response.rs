//! Answers that are ready and may not be given yet: each holds its connection, and no thread.

use std::sync::Arc;

use super::peer::Peer;
use super::request::RequestInfo;
use super::response::Response;
use super::worker_pool::{self, ServerContext};

/// An answer that waits. Dropped, it is lost, and the event loop answers at the request's own deadline; so it does
/// where this takes too long, and what is completed later is lost.
pub struct ParkedResponse {
    server: Arc<ServerContext>,
    peer: Arc<Peer>,
    info: RequestInfo,
    response: Response,
}

impl ParkedResponse {
    /// Hands an answer to the one it waits for, unless the event loop has answered in the worker's stead.
    pub fn park(server: &Arc<ServerContext>, peer: Arc<Peer>, info: RequestInfo, mut response: Response) {
        let Some(park) = response.park.take() else { return };
        if peer.park(response.parked_until) {
            park(ParkedResponse { server: Arc::clone(server), peer, info, response });
        }
    }

    /// Gives another answer instead, which has this one's field lines too.
    pub fn complete_with(mut self, response: Response) {
        let first = self.response;
        self.response = Response { key_id: first.key_id, ..response };
        self.response.headers.extend(first.headers);
        self.complete();
    }

    /// Gives the answer.
    pub fn complete(self) {
        worker_pool::send(&self.server, &self.peer, &self.info, self.response, &mut Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;
    use crate::http::connection::{Deadlines, Rules};
    use crate::http::event_loop::{EventLoop, Limits};
    use crate::http::request::Request;
    use crate::http::router::TestService;
    use crate::http::worker_pool::Counts;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ask(client: &mut TcpStream, path: &str) {
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    }

    fn expect_204(client: &mut TcpStream) {
        let mut answer = [0; 1024];
        let count = client.read(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 204 ") && answer[..count].ends_with(b"\r\n\r\n"));
    }

    /// How long 99 of 100 requests take at most.
    fn p99(client: &mut TcpStream, path: &str) -> Duration {
        let mut took = [(); 2000].map(|()| {
            let began = Instant::now();
            ask(client, path);
            expect_204(client);
            began.elapsed()
        });
        took.sort();
        took[1979]
    }

    /// With one worker for all of them, and for what others ask meanwhile.
    #[test]
    fn a_thousand_answers_wait_and_hold_nothing_but_their_connections() {
        let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
        let parked = Arc::new(Mutex::new(Vec::new()));
        let parks = Arc::clone(&parked);
        let handle = move |request: &Request<'_>| {
            let parks = Arc::clone(&parks);
            match request.path {
                "/parked" => Response::no_content().parked(move |parked| parks.lock().unwrap().push(parked)),
                _ => Response::no_content(),
            }
        };
        let (poll, server) = ServerContext::for_tests(2000, Arc::new(TestService(handle)));
        let temporary = std::env::temp_dir();
        let workers = worker_pool::start(&server, Counts { reads: 1, changes: 0 }, &temporary).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let [request, idle, write, answer, answer_to_change, answer_to_upload] = [MINUTE; 6];
        let deadlines = Deadlines { request, idle, write, answer, answer_to_change, answer_to_upload };
        let rules = Rules { deadlines, trusted_proxies: Default::default() };
        let limits = Limits { connections: 2000, rules, upload_directory: temporary, has_successor: false };
        let event_loop = EventLoop::new(poll, listener, limits, Arc::clone(&server)).unwrap();
        let event_loop = std::thread::spawn(move || event_loop.run(MINUTE).unwrap());
        let connect = || {
            let client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(MINUTE)).unwrap();
            client
        };
        let mut other = connect();
        let before = ["/now", "/worker"].map(|path| p99(&mut other, path));
        let mut clients: Vec<_> = (0..1000).map(|_| connect()).collect();
        clients.iter_mut().for_each(|client| ask(client, "/parked"));
        let began = Instant::now();
        while parked.lock().unwrap().len() < 1000 {
            assert!(began.elapsed() < MINUTE);
            std::thread::yield_now();
        }
        let beside = ["/now", "/worker"].map(|path| p99(&mut other, path));
        println!("p99 of the event loop's and of a worker's answers: {before:?}, beside 1000: {beside:?}");
        assert_eq!(server.status.metrics.requests_in_flight.get(), 1000, "none was answered meanwhile");
        // One client is gone, and keeps no other from its answer.
        drop(clients.remove(500));
        std::mem::take(&mut *parked.lock().unwrap()).into_iter().for_each(ParkedResponse::complete);
        clients.iter_mut().for_each(expect_204);
        assert_eq!(server.status.metrics.requests_in_flight.get(), 0);
        drop((clients, other));
        server.status.start_draining();
        server.completions.wake();
        assert_eq!(event_loop.join().unwrap(), 0);
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}
