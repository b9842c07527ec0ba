//! The life of a server, straight down: reserve the address, connect, migrate, bootstrap, listen, serve, drain.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::Client;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{self, Settings};
use crate::failure::Failure;
use crate::http::connection::Deadlines;
use crate::http::gate::{self, Gate, Limits};
use crate::http::routes::{self, Answer, ROUTES, Request};
use crate::http::vitals::Vitals;
use crate::http::workers::{self, Mailbox, Queue, Shop};
use crate::keys::{Keys, bootstrap, revocations};
use crate::logging;
use crate::metrics::Metrics;
use crate::store::Store;

/// Connections that the kernel completes before we accept them; it takes as many as `net.core.somaxconn` allows.
const BACKLOG: i32 = 4096;
/// Descriptors that are not clients: sessions, log, socket pairs, the poll itself, and some to spare.
const OWN_DESCRIPTORS: u64 = 64;
/// How often the database is looked at for `/ready`, and how long that look may take.
const CHECK_EVERY: Duration = Duration::from_millis(500);
const CHECK_LIMIT: Duration = Duration::from_secs(1);
/// How often the keys in the table are counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// Serves until SIGINT or SIGTERM, then drains.
///
/// # Errors
/// Whatever kept it from starting, or requests that were cut off at the end of the drain deadline.
pub fn serve(settings: &Settings) -> Result<(), Failure> {
    config::make_home(&settings.home)?;
    logging::start(&settings.home, settings.verbose);
    log::info!(database = config::mask_url(&settings.database_url); "starting");
    bootstrap::check_chosen_key(settings.bootstrap_key.as_deref())?;
    let socket = reserve(settings.bind)?;
    let metrics = Arc::new(Metrics::new()?);
    let first =
        |client: &mut Client| bootstrap::run(client, &settings.home, settings.bootstrap_key.as_deref());
    let store = Store::start(settings, Arc::clone(&metrics), first)?;
    let vitals = Arc::new(Vitals::new(Arc::clone(&metrics)));
    let keys = Keys::new(store, settings, metrics)
        .map_err(|error| Failure::Runtime(format!("cannot set up the keys: {error:?}")))?;
    let keys = Arc::new(keys);

    let (poll, waker) = gate::prepare().map_err(|error| runtime("cannot set up the event poll", &error))?;
    let handle = {
        let keys = Arc::clone(&keys);
        Box::new(move |request: &Request<'_>| routes::dispatch(&keys, request))
    };
    let shop = Arc::new(Shop {
        queue: Queue::new(settings.queue),
        mailbox: Mailbox::new(waker),
        vitals: Arc::clone(&vitals),
        handle,
    });
    let workers = start_workers(&shop, settings)?;
    let listener = listen(socket, settings.bind)?;
    let address = listener.local_addr().map_err(|error| runtime("cannot tell the address", &error))?;
    let limits = Limits {
        connections: connection_limit(settings),
        deadlines: Deadlines {
            request: settings.request_timeout,
            idle: settings.idle_timeout,
            write: settings.write_timeout,
            answer: settings.database_timeout,
        },
    };
    let gate = Gate::new(poll, listener, limits, Arc::clone(&shop))
        .map_err(|error| runtime("cannot watch the listening socket", &error))?;
    drain_on_signal(&shop)?;
    // The first look is before the first request, so that `/ready` is right from then on.
    look_at_database(&keys, &vitals, settings.database_timeout);
    let watchers = Watchers::start(&keys, &vitals)?;
    announce(address);

    let cut_off =
        gate.run(settings.shutdown_timeout).map_err(|error| runtime("the event poll failed", &error))?;
    let finished = finish(&shop, workers, watchers, settings.shutdown_timeout, cut_off);
    keys.write_uses();
    finished
}

fn runtime(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Runtime(format!("{what}: {error}"))
}

/// Binds without listening: a taken port is known before the database is touched, and nobody is let in before it is
/// ready. Accepted sockets inherit `TCP_NODELAY` from it.
fn reserve(bind: SocketAddr) -> Result<Socket, Failure> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
        if bind.is_ipv6() {
            // `[::]` takes IPv4 clients as well, whatever the system's default.
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&bind.into())?;
        Ok(socket)
    };
    bound().map_err(|error: io::Error| bind_failure(bind, &error))
}

fn listen(socket: Socket, bind: SocketAddr) -> Result<TcpListener, Failure> {
    socket.listen(BACKLOG).map_err(|error| bind_failure(bind, &error))?;
    Ok(socket.into())
}

fn bind_failure(bind: SocketAddr, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another --bind",
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege; choose a higher one with --bind"
        }
        _ => "choose another --bind",
    };
    Failure::Runtime(format!("cannot listen on {bind}: {error} ({hint})"))
}

/// The workers' socket pairs need a directory for a moment: the home, or where that has too long a name, the
/// system's temporary one.
fn start_workers(shop: &Arc<Shop>, settings: &Settings) -> Result<Vec<JoinHandle<()>>, Failure> {
    let temporary: PathBuf = std::env::temp_dir();
    let start = |directory: &Path| workers::start(shop, settings.workers, directory);
    start(&settings.home)
        .or_else(|_| start(&temporary))
        .map_err(|error| runtime("cannot start the workers", &error))
}

/// Raises the limit of open files to the hard limit, and keeps the number of connections below it.
fn connection_limit(settings: &Settings) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let files = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, hard)| {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        }
    });
    let own = OWN_DESCRIPTORS + 4 * settings.workers as u64 + u64::from(settings.pool_size);
    let possible = files
        .map_or(usize::MAX, |files| usize::try_from(files.saturating_sub(own).max(16)).unwrap_or(usize::MAX));
    if possible < settings.max_connections {
        log::warn!(
            "the limit of open files allows {possible} connections, not the {} of --max-connections",
            settings.max_connections
        );
    }
    settings.max_connections.min(possible)
}

/// The first SIGINT or SIGTERM drains, the second exits at once.
fn drain_on_signal(shop: &Arc<Shop>) -> Result<(), Failure> {
    let shop = Arc::clone(shop);
    let signals = AtomicUsize::new(0);
    ctrlc::set_handler(move || {
        if signals.fetch_add(1, Ordering::AcqRel) == 0 {
            log::info!("draining: no new connections, requests under way are finished");
            shop.vitals.start_draining();
            shop.mailbox.wake();
        } else {
            log::warn!("second signal: exiting at once");
            std::process::exit(1);
        }
    })
    .map_err(|error| Failure::Runtime(format!("cannot handle signals: {error}")))
}

/// The block that tells a person what there is. A closed stdout is no reason to stop.
fn announce(address: SocketAddr) {
    let mut block = format!("API server is running on http://{address}\n");
    for route in ROUTES {
        let method = if route.method == "DELETE" { "DEL" } else { route.method };
        let path = route.pattern.replace("{id}", ":id");
        let auth = if matches!(route.answer, Answer::Worker(..)) { " (auth required)" } else { "" };
        block += &format!("  {method} {path} -- {}{auth}\n", route.summary);
    }
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(block.as_bytes()).and_then(|()| stdout.flush());
    log::info!(version = env!("CARGO_PKG_VERSION"), address:% = address; "serving");
}

/// The threads that look after the database.
struct Watchers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watchers {
    fn start(keys: &Arc<Keys>, vitals: &Arc<Vitals>) -> Result<Watchers, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |name: &str, watch: fn(&Keys, &Vitals, &AtomicBool)| {
            let (keys, vitals, stop) = (Arc::clone(keys), Arc::clone(vitals), Arc::clone(&stop));
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || watch(&keys, &vitals, &stop))
                .map_err(|error| runtime("cannot start a thread", &error))
        };
        let revocations = spawn("revocations", |keys, _, stop| revocations::watch(keys, stop))?;
        let readiness = spawn("readiness", watch_readiness)?;
        Ok(Watchers { stop, threads: vec![revocations, readiness] })
    }
}

/// Takes a session from the pool now and then, so that `/ready` can answer without asking, and does what has to be
/// written or counted from time to time.
fn watch_readiness(keys: &Keys, vitals: &Vitals, stop: &AtomicBool) {
    let mut next_count = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        if look_at_database(keys, vitals, CHECK_LIMIT) {
            keys.write_uses();
            if began >= next_count {
                next_count = began + COUNT_EVERY;
                keys.count();
            }
        }
        thread::park_timeout(CHECK_EVERY.saturating_sub(began.elapsed()));
    }
}

fn look_at_database(keys: &Keys, vitals: &Vitals, limit: Duration) -> bool {
    let began = Instant::now();
    let reached = keys.store.check(limit);
    if reached {
        vitals.saw_database(began);
    }
    reached
}

/// Joins every thread, unless one hangs in a database beyond the deadline.
fn finish(
    shop: &Shop,
    workers: Vec<JoinHandle<()>>,
    watchers: Watchers,
    limit: Duration,
    cut_off: usize,
) -> Result<(), Failure> {
    shop.queue.close();
    watchers.stop.store(true, Ordering::Release);
    watchers.threads.iter().for_each(|watcher| watcher.thread().unpark());
    let (done, all_done) = mpsc::channel();
    let threads = workers.into_iter().chain(watchers.threads);
    let joiner = thread::spawn(move || {
        let panicked = threads.map(JoinHandle::join).filter(Result::is_err).count();
        let _ = done.send(panicked);
    });
    let outcome = all_done.recv_timeout(limit);
    if outcome.is_ok() {
        let _ = joiner.join();
    }
    match (cut_off, outcome) {
        (0, Ok(0)) => {
            log::info!("drained");
            Ok(())
        }
        (0, Ok(panicked)) => Err(Failure::Runtime(format!("{panicked} threads had panicked"))),
        (0, Err(_)) => {
            Err(Failure::Runtime("shut down while a thread still waited for the database".to_owned()))
        }
        (cut_off, _) => Err(Failure::Runtime(format!(
            "{cut_off} connections were cut off at the end of --shutdown-timeout"
        ))),
    }
}
