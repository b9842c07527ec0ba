//! What systemd is told (sd_notify(3)): that the server answers, that it drains, and, for the watchdog, that a request
//! of our own still comes through from the listening socket to a worker and back.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::background::restart_on_panic;
use crate::http::worker_pool::ServerContext;

/// How long the first answer may take before it is asked for again.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// systemd takes messages at once, unless it hangs itself.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// The socket that `NOTIFY_SOCKET` names, and what the watchdog expects.
pub struct SystemdNotifier {
    socket: UnixDatagram,
    to: UnixAddr,
    /// systemd ends a server that it has not heard of for so long.
    watchdog: Option<Duration>,
}

impl SystemdNotifier {
    /// `None` where no service manager asks for it. An address that is none is a line in the log.
    pub fn from_environment() -> Option<Arc<SystemdNotifier>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let name = variable("NOTIFY_SOCKET")?;
        let watchdog = watchdog(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        SystemdNotifier::to(&name, watchdog)
            .inspect_err(|error| log::warn!("cannot use NOTIFY_SOCKET `{name}`: {error}"))
            .ok()
            .map(Arc::new)
    }

    fn to(name: &str, watchdog: Option<Duration>) -> io::Result<SystemdNotifier> {
        let to = match name.strip_prefix('@') {
            Some(name) => UnixAddr::from_abstract_name(name)?,
            None if name.starts_with('/') => UnixAddr::from_pathname(name)?,
            None => return Err(io::Error::other("it must begin with `/` or `@`")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        Ok(SystemdNotifier { socket, to, watchdog })
    }

    /// Tells systemd one thing; that it could not be told is a line of the log.
    pub fn say(&self, what: &str) {
        if let Err(error) = self.socket.send_to_addr(what.as_bytes(), &self.to) {
            log::warn!("cannot tell systemd {what}: {error}");
        }
    }

    /// Says `READY=1` once the server answers at `address`, then `WATCHDOG=1` again and again, if there is a watchdog,
    /// until the server drains. `longest_wait` is for how long all workers together may rightly be busy with the
    /// database.
    ///
    /// Its thread is not joined: it may wait for an answer from a listening socket that is left to our successor.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn watch(
        self: Arc<Self>,
        server: &Arc<ServerContext>,
        address: SocketAddr,
        longest_wait: Duration,
    ) -> io::Result<()> {
        let probe = Probe::new(address);
        server.status.expect_probe(&probe.path);
        let server = Arc::clone(server);
        let run = move || restart_on_panic(|| self.run(&server, &probe, Progress::new(longest_wait)));
        thread::Builder::new().name("notify".to_owned()).spawn(run).map(drop)
    }

    fn run(&self, server: &ServerContext, probe: &Probe, mut progress: Progress) {
        let limit = self.watchdog.map_or(FIRST_ANSWER, |watchdog| watchdog / 4);
        let mut is_ready = false;
        while !server.status.is_draining() {
            let began = Instant::now();
            let outcome = probe.ask(limit).map_err(|error| error.to_string()).and_then(|()| {
                let (taken, database) = (server.reads.taken(), server.service.database_answers());
                let moves = progress.is_made(taken, database, Instant::now());
                if moves { Ok(()) } else { Err("no worker takes requests any more".to_owned()) }
            });
            if server.status.is_draining() {
                return;
            }
            let pause = match outcome {
                Ok(()) => {
                    if !std::mem::replace(&mut is_ready, true) {
                        self.say("READY=1");
                    }
                    let Some(watchdog) = self.watchdog else { return };
                    self.say("WATCHDOG=1");
                    (watchdog / 2).saturating_sub(began.elapsed())
                }
                Err(why) => {
                    log::warn!(
                        "the server does not answer its own request, so systemd is not told that it is alive: {why}"
                    );
                    limit / 2
                }
            };
            thread::sleep(pause);
        }
    }
}

/// What `WATCHDOG_USEC` says, unless it is for another process.
fn watchdog(microseconds: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let microseconds = microseconds?.parse().ok().filter(|microseconds| *microseconds > 0)?;
    Some(Duration::from_micros(microseconds))
}

/// A request to ourselves, for a path that no client knows: the event loop hands it on to a worker, which finds that there
/// is no such path. It needs no key and no database, and is not counted.
struct Probe {
    path: String,
    /// The first that takes a connection.
    addresses: Vec<SocketAddr>,
}

impl Probe {
    fn new(address: SocketAddr) -> Probe {
        let path = format!("/watchdog-{}", Uuid::new_v4());
        Probe { path, addresses: from_here(address) }
    }

    /// Any answer will do, 503 in a busy worker's stead included: whether workers move is looked at apart. So will an
    /// end without one, which a server that is full gives a newcomer.
    fn ask(&self, limit: Duration) -> io::Result<()> {
        let mut refusal = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let connected = self.addresses.iter().find_map(|address| {
            TcpStream::connect_timeout(address, limit).map_err(|error| refusal = error).ok()
        });
        let Some(mut stream) = connected else { return Err(refusal) };
        stream.set_read_timeout(Some(limit))?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: watchdog\r\nConnection: close\r\n\r\n",
            self.path
        );
        let mut start = [0; 13];
        match stream.write_all(request.as_bytes()).and_then(|()| stream.read_exact(&mut start)) {
            Ok(()) if is_status_line(&start) => Ok(()),
            Ok(()) => Err(io::Error::other("what answers there is no HTTP")),
            Err(error) if ENDED.contains(&error.kind()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::other(format!("nothing within {limit:?}")))
            }
            Err(error) => Err(error),
        }
    }
}

fn is_status_line(start: &[u8; 13]) -> bool {
    start.starts_with(b"HTTP/1.1 ") && start[9..12].iter().all(u8::is_ascii_digit) && start[12] == b' '
}

/// The other end has ended the connection.
const ENDED: [io::ErrorKind; 3] =
    [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];

/// Where a socket that is bound like that is reached from this host. `[::]` may be for IPv6 alone, or on a host whose
/// loopback has no IPv6.
fn from_here(address: SocketAddr) -> Vec<SocketAddr> {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let ips = match address {
        _ if !address.ip().is_unspecified() => return vec![address],
        SocketAddr::V4(_) => vec![v4],
        SocketAddr::V6(_) => vec![v6, v4],
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, address.port())).collect()
}

/// Whether workers take requests out of the queue. That none does is excused while the database does not answer, since
/// all may wait for it, and for as long as it may take to answer.
struct Progress {
    longest_wait: Duration,
    /// How many were taken when that number last grew, and when that was.
    taken: u64,
    at: Instant,
}

impl Progress {
    fn new(longest_wait: Duration) -> Progress {
        Progress { longest_wait, taken: 0, at: Instant::now() }
    }

    fn is_made(&mut self, taken: u64, database_answers: bool, now: Instant) -> bool {
        if taken != self.taken || !database_answers {
            (self.taken, self.at) = (taken, now);
        }
        now.saturating_duration_since(self.at) <= self.longest_wait
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::http::connection::{Deadlines, Rules};
    use crate::http::event_loop::{EventLoop, Limits};
    use crate::http::request::Request;
    use crate::http::response::Response;
    use crate::http::router::TestService;
    use crate::http::worker_pool;

    const SECOND: Duration = Duration::from_secs(1);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn the_watchdog_of_this_process() {
        assert_eq!(watchdog(Some("3000000"), None, 7), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), Some("7"), 7), Some(Duration::from_secs(3)));
        for (microseconds, pid) in
            [(None, None), (Some("3000000"), Some("8")), (Some("0"), None), (Some("x"), None)]
        {
            assert_eq!(watchdog(microseconds, pid, 7), None, "{microseconds:?} {pid:?}");
        }
    }

    #[test]
    fn addresses_of_sockets() {
        for name in ["/run/systemd/notify", "@abstract"] {
            assert!(SystemdNotifier::to(name, None).is_ok(), "{name}");
        }
        for name in ["relative", "vsock:2:1234"] {
            assert!(SystemdNotifier::to(name, None).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_bound_everywhere_is_reached_through_loopback() {
        let reached = |bound: &str| {
            let all = from_here(bound.parse().unwrap());
            all.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reached("0.0.0.0:1"), ["127.0.0.1:1"]);
        assert_eq!(reached("[::]:1"), ["[::1]:1", "127.0.0.1:1"]);
        assert_eq!(reached("10.0.0.1:1"), ["10.0.0.1:1"]);
    }

    /// What a probe makes of a listener that accepts, answers this, and closes or does not.
    fn probed(answer: Option<&'static [u8]>) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Probe::new(listener.local_addr().unwrap());
        let (done, wait) = mpsc::channel::<()>();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            match answer {
                Some(answer) => client.write_all(answer).unwrap(),
                None => assert!(wait.recv().is_err()),
            }
        });
        let outcome = probe.ask(if answer.is_some() { SECOND * 10 } else { SHORT });
        drop(done);
        server.join().unwrap();
        outcome
    }

    #[test]
    fn who_answers_lives() {
        assert!(probed(Some(b"HTTP/1.1 404 Not Found\r\n")).is_ok());
        assert!(probed(Some(b"HTTP/1.1 503 Service Unavailable\r\n")).is_ok());
        assert!(probed(Some(b"")).is_ok(), "a full server ends a newcomer's connection");
        assert!(probed(Some(b"SSH-2.0-OpenSSH\r\n")).is_err());
        assert!(probed(None).is_err(), "accepted, and never answered");
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(Probe::new(gone).ask(SHORT).is_err());
        // The kernel completes the connection, and no program accepts it.
        let hung = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Probe::new(hung.local_addr().unwrap()).ask(SHORT).is_err());
    }

    #[test]
    fn workers_that_wait_for_the_database_are_excused() {
        let start = Instant::now();
        let mut progress = Progress::new(SECOND * 9);
        let mut is_made =
            |taken, database, second| progress.is_made(taken, database, start + SECOND * second);
        assert!(is_made(1, true, 10), "one was taken");
        assert!(is_made(1, true, 19), "none since, for no longer than the database may take");
        assert!(!is_made(1, true, 20));
        assert!(is_made(1, false, 21), "the database does not answer");
        assert!(is_made(1, false, 1000));
        assert!(is_made(1, true, 1009), "it does again, and they may need a moment");
        assert!(!is_made(1, true, 1010));
        assert!(is_made(2, true, 1011));
    }

    /// The whole of it: an event loop that runs, with one worker that stands still whenever it is told to.
    #[test]
    fn the_watchdog_hears_nothing_of_a_worker_that_is_stuck() {
        let directory = std::env::temp_dir();
        let stuck = Arc::new(Mutex::new(()));
        let service = {
            let stuck = Arc::clone(&stuck);
            Arc::new(TestService(move |_: &Request<'_>| {
                drop(stuck.lock().unwrap());
                Response::no_content()
            }))
        };
        let (poll, server) = ServerContext::for_tests(8, service);
        let status = Arc::clone(&server.status);
        let workers =
            worker_pool::start(&server, worker_pool::Counts { reads: 1, changes: 1 }, &directory).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let [request, idle, write, answer, answer_to_change, answer_to_upload] = [SECOND * 10; 6];
        let deadlines = Deadlines { request, idle, write, answer, answer_to_change, answer_to_upload };
        let rules = Rules { deadlines, trusted_proxies: Default::default() };
        let limits = Limits { connections: 8, rules, upload_directory: directory, has_successor: false };
        let event_loop = EventLoop::new(poll, listener, limits, Arc::clone(&server)).unwrap();
        let event_loop = thread::spawn(move || event_loop.run(SECOND * 10).unwrap());

        let name = format!("cloacinactl-notify-test-{}", std::process::id());
        let systemd = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        systemd.set_read_timeout(Some(SECOND * 30)).unwrap();
        let heard = || {
            let mut message = [0; 64];
            systemd.recv(&mut message).map(|count| String::from_utf8_lossy(&message[..count]).into_owned())
        };
        let notifier = Arc::new(SystemdNotifier::to(&format!("@{name}"), Some(SECOND * 2)).unwrap());
        Arc::clone(&notifier).watch(&server, address, SHORT).unwrap();
        assert_eq!(heard().unwrap(), "READY=1");
        assert_eq!(heard().unwrap(), "WATCHDOG=1");
        assert_eq!(heard().unwrap(), "WATCHDOG=1", "and again");
        // The database counts as reached, so there is no excuse.
        let standstill = stuck.lock().unwrap();
        let hangs_since = Instant::now();
        systemd.set_read_timeout(Some(SECOND * 3)).unwrap();
        while heard().is_ok() {
            assert!(hangs_since.elapsed() < SECOND * 30, "the watchdog is fed while no worker moves");
        }
        drop(standstill);
        systemd.set_read_timeout(Some(SECOND * 30)).unwrap();
        assert_eq!(heard().unwrap(), "WATCHDOG=1", "it moves again");
        notifier.say("STOPPING=1");
        let last = std::iter::repeat_with(|| heard().unwrap()).find(|message| message != "WATCHDOG=1");
        assert_eq!(last.unwrap(), "STOPPING=1");
        assert_eq!(status.metrics.requests_in_flight.get(), 0);
        let text = String::from_utf8(status.metrics.render()).unwrap();
        assert!(!text.contains("cloacina_http_requests_total{"), "probes are not counted: {text}");
        status.start_draining();
        server.completions.wake();
        assert_eq!(event_loop.join().unwrap(), 0);
        server.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}
