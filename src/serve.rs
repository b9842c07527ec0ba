//! The life of a server, straight down: reserve the address, connect, migrate, bootstrap, listen, serve, drain.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::Client;

use crate::app::App;
use crate::auth::Auth;
use crate::auth::lease::LONGEST_WAIT_FOR_SERVERS;
use crate::background::{Background, Waker};
use crate::channel::channel;
use crate::command_error::{CommandError, runtime};
use crate::config::{self, Settings, Wrong};
use crate::engine::no_core::leave_no_core;
use crate::http::completions::CompletionQueue;
use crate::http::event_loop::{self, EventLoop, Limits};
use crate::http::listener;
use crate::http::queue::Queue;
use crate::http::router::Service;
use crate::http::server_status::ServerStatus;
use crate::http::worker_pool::{self, Counts, ServerContext};
use crate::keys::{self, bootstrap};
use crate::logging;
use crate::maintenance;
use crate::metrics::Metrics;
use crate::openapi;
use crate::reload::{self, Reload};
use crate::routes::ROUTES;
use crate::scheduler;
use crate::signals;
use crate::store::Store;
use crate::systemd::SystemdNotifier;
use crate::warnings::Warnings;

/// Descriptors that are not clients: sessions, log, socket pairs, the poll itself, and some to spare.
const OWN_DESCRIPTORS: u64 = 64;
/// What the threads get to end in, also when the drain has used its time up.
const THREADS_END: Duration = Duration::from_secs(1);

/// Serves until SIGINT or SIGTERM, then drains. `load` is called again upon SIGHUP.
///
/// # Errors
/// Whatever kept it from starting, or requests that were cut off at the end of the drain deadline.
pub fn serve(
    load: impl Fn() -> Result<(Settings, Wrong), CommandError> + Send + 'static,
) -> Result<(), CommandError> {
    let settings = &load().and_then(config::all_right)?;
    if settings.task_slots > 0 {
        // Tasks may be of its own user.
        leave_no_core().map_err(runtime("cannot keep this process's memory from others"))?;
    }
    let passed = listener::passed()?;
    signals::set_mask()?;
    let ignores_hangups = signals::ignores_hangups();
    config::make_home(&settings.home)?;
    logging::start(&settings.home, settings.verbose)?;
    log::info!(database = config::mask_url(&settings.database_url); "starting");
    let notifier = SystemdNotifier::from_environment();
    let serving = Arc::new(OnceLock::new());
    let drain = drain_on_signal(Arc::clone(&serving), notifier.clone());
    signals::on_end(drain)?;
    bootstrap::chosen_key(settings.bootstrap_key.as_deref())?;
    let has_successor = passed.is_some();
    let socket = match passed {
        Some(listener) => {
            log::info!("serving the listening socket that LISTEN_FDS passed; --bind is ignored");
            listener.into()
        }
        None => listener::reserve(settings.bind.0)?,
    };
    // Before the database is waited for: the tasks that run here have no limits until then.
    let cgroups = scheduler::has_host(settings).then(|| scheduler::cgroups::enter(settings));
    let metrics = Arc::new(Metrics::new()?);
    let set_up = |client: &mut Client, limit| bootstrap::migrate_and_make_first_key(client, limit, settings);
    let tables = &[keys::store::TABLE];
    let store = Arc::new(Store::start(settings, Arc::clone(&metrics), tables, set_up)?);
    let status = Arc::new(ServerStatus::new(Arc::clone(&metrics)));
    status.access_log.store(settings.access_log, Ordering::Relaxed);
    let auth = Auth::new(Arc::clone(&store), settings.cache_size, settings.cache_ttl, metrics);
    let openapi =
        openapi::document(ROUTES).map_err(runtime("cannot put together the OpenAPI document"))?.leak();
    let app = Arc::new(App {
        database_timeout: settings.database_timeout,
        max_key_lifetime: settings.max_key_lifetime,
        store,
        auth,
        status: Arc::clone(&status),
        tenant_database_host: settings.tenant_database_host.clone(),
        max_package_size: settings.max_package_size,
        package_store: Arc::default(),
        execution_changes: Arc::default(),
        tenant_removal: Waker::default(),
        tasks_are_stopping: AtomicBool::new(false),
        warnings: Warnings::default(),
        openapi,
    });

    let (poll, waker) = event_loop::prepare().map_err(runtime("cannot set up the event poll"))?;
    let server = Arc::new(ServerContext {
        reads: Queue::new(settings.queue, status.metrics.queue_depth.clone()),
        changes: Queue::new(settings.queue, status.metrics.queue_depth.clone()),
        completions: CompletionQueue::new(waker),
        status,
        service: Arc::clone(&app) as Arc<dyn Service>,
    });
    // Their socket pairs need a directory for a moment: the home, or where that has too long a name, the temporary one.
    let start = |directory: &Path| worker_pool::start(&server, worker_counts(settings), directory);
    let workers = start(&settings.home).or_else(|_| start(&std::env::temp_dir()));
    let workers = workers.map_err(runtime("cannot start the workers"))?;
    let listener = if has_successor { socket.into() } else { listener::listen(socket, settings.bind.0)? };
    let address = listener.local_addr().map_err(runtime("cannot tell the address"))?;
    let limits = Limits {
        connections: connection_limit(settings),
        rules: reload::rules(settings),
        upload_directory: settings.home.clone(),
        has_successor,
    };
    let event_loop = EventLoop::new(poll, listener, limits, Arc::clone(&server))
        .map_err(runtime("cannot watch the listening socket"))?;
    // From here on a signal drains; until here there was nothing to drain.
    let _ = serving.set((Arc::clone(&server), Arc::clone(&app)));
    let mut watchers = maintenance::start(&app).map_err(runtime("cannot start a thread"))?;
    if scheduler::is_needed(settings) {
        let (runs, of_tasks) = (Arc::clone(&app), settings.clone());
        let cgroups = cgroups.unwrap_or_else(|| Err("this server runs no tasks".to_owned()));
        watchers
            .start("scheduler", move |stop| scheduler::run(&runs, &of_tasks, &cgroups, stop))
            .map_err(runtime("cannot start a thread"))?;
    }
    if !ignores_hangups {
        let mut reload = Reload::new(settings.clone(), load, Arc::clone(&server));
        signals::on_hangup(move || reload.run()).map_err(runtime("cannot start a thread"))?;
    }
    print_endpoints(address);
    // A start takes half as long without the other sessions beside it.
    app.store.factory.start();
    if let Some(notifier) = notifier {
        notifier
            .watch(&server, address, settings.database_timeout + LONGEST_WAIT_FOR_SERVERS)
            .map_err(runtime("cannot start a thread"))?;
    }

    let cut_off = event_loop.run(settings.shutdown_timeout).map_err(runtime("the event poll failed"))?;
    let left = settings.shutdown_timeout.saturating_sub(app.status.drained_for());
    finish(&server, &app, workers, watchers, left, cut_off)
}

/// Half as many workers for changes as for reads, and in any case fewer than there are sessions, where there are two:
/// changes that hang must leave reads a session.
fn worker_counts(settings: &Settings) -> Counts {
    let sessions_for_changes = settings.pool_size as usize - 1;
    let changes = settings.workers.div_ceil(2).min(sessions_for_changes).max(1);
    Counts { reads: settings.workers, changes }
}

/// Raises the limit of open files to the hard limit, and keeps the number of connections below it.
fn connection_limit(settings: &Settings) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = |(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    let files = getrlimit(Resource::RLIMIT_NOFILE).map(raised);
    let Counts { reads, changes } = worker_counts(settings);
    let own = OWN_DESCRIPTORS + 4 * (reads + changes) as u64 + u64::from(settings.pool_size);
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

/// What the first signal to end does: nothing, and says so with `false`, until there is an event loop to be told.
fn drain_on_signal(
    serving: Arc<OnceLock<(Arc<ServerContext>, Arc<App>)>>,
    notifier: Option<Arc<SystemdNotifier>>,
) -> impl Fn() -> bool {
    move || {
        let Some((server, app)) = serving.get() else { return false };
        log::info!("draining: no new connections, requests under way are finished");
        server.status.start_draining();
        server.completions.wake();
        // Which starts no more tasks, and may have to end some.
        app.execution_changes.announced();
        if let Some(notifier) = &notifier {
            notifier.say("STOPPING=1");
        }
        true
    }
}

/// Prints the block that tells a person what there is.
fn print_endpoints(address: SocketAddr) {
    let mut block = format!("API server is running on http://{address}\n");
    for route in ROUTES {
        let method = if route.method == "DELETE" { "DEL" } else { route.method };
        let path = route.pattern.replace('{', ":").replace('}', "");
        let auth = if route.endpoint.handler.scope().is_none() { "" } else { " (auth required)" };
        block += &format!("  {method} {path} -- {}{auth}\n", route.endpoint.summary);
    }
    logging::write_stdout(block);
    log::info!(version = env!("CARGO_PKG_VERSION"), address:% = address; "serving");
}

/// Joins every thread, unless one hangs in a database beyond the deadline: first the workers; then, once what waits has
/// been answered or its time is over, the others; what no client was told of is undone at last. Where the database is in
/// trouble and nothing is to be undone, the others are left to wait: no client waits for what they do.
fn finish(
    server: &ServerContext,
    app: &Arc<App>,
    workers: Vec<JoinHandle<()>>,
    watchers: Background,
    left: Duration,
    cut_off: usize,
) -> Result<(), CommandError> {
    server.close();
    let (done, stages) = channel();
    let until = Instant::now() + left + THREADS_END;
    let joined = Arc::clone(app);
    let join = move || {
        workers.into_iter().for_each(|thread| _ = thread.join());
        joined.auth.waiting.finish(until - THREADS_END);
        let _ = done.send(());
        watchers.stop().into_iter().for_each(|thread| _ = thread.join());
        joined.auth.undelivered.undo(&joined.store, joined.database_timeout);
        joined.auth.undelivered.give_up();
        let _ = done.send(());
    };
    thread::Builder::new().name("joiner".to_owned()).spawn(join).map_err(runtime("cannot start a thread"))?;
    let is_idle = || {
        app.store.status.trouble().is_some()
            && !app.auth.undelivered.has_any()
            && !app.tasks_are_stopping.load(Ordering::Acquire)
    };
    let wait = |limit| stages.recv_timeout(limit);
    let left = || until.saturating_duration_since(Instant::now());
    let ended = wait(left()).and_then(|()| match wait(THREADS_END.min(left())) {
        Err(RecvTimeoutError::Timeout) if is_idle() => Ok(()),
        Err(RecvTimeoutError::Timeout) => wait(left()),
        ended => ended,
    });
    match (cut_off, ended) {
        (0, Ok(())) => {
            log::info!("drained");
            Ok(())
        }
        (0, Err(_)) => {
            Err(CommandError::Runtime("shut down while a thread still waited for the database".to_owned()))
        }
        (cut_off, _) => Err(CommandError::Runtime(format!(
            "{cut_off} connections were cut off at the end of --shutdown-timeout"
        ))),
    }
}
