//! The threads that look after the database, the cache and the log while requests are served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::auth::{invalidation, waiting_responses};
use crate::background::Background;
use crate::executions;
use crate::executions::{announcement, retention, waiting};
use crate::hosts;
use crate::hosts::store::Silent;
use crate::keys;
use crate::tenants::removal;
use crate::workflows::upload;

/// How often the database is looked at for `/ready`, and how long that look may take.
const CHECK_EVERY: Duration = Duration::from_millis(500);
const CHECK_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks, however many requests fail.
const LOOKS_APART: Duration = Duration::from_millis(20);
/// How often refused requests are summed up in a line of the log.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How often what is in tables is counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// How often it is asked which hosts are silent.
const ASK_FOR_SILENT_EVERY: Duration = Duration::from_secs(15);

/// After a failover each host says within moments what it runs.
const WAITED_FOR_LONG: Duration = Duration::from_secs(60);

/// Starts them.
///
/// # Errors
/// The system has no thread left.
pub fn start(app: &Arc<App>) -> io::Result<Background> {
    type Watch = fn(&App, &AtomicBool);
    let watches: [(&str, Watch); 12] = [
        ("invalidation", |app, stop| invalidation::watch(&app.auth, stop)),
        ("waiting-responses", |app, stop| waiting_responses::watch(&app.auth, stop)),
        ("waiting-clients", waiting::watch),
        ("readiness", watch_readiness),
        ("same-server", |app, stop| invalidation::watch_server(&app.auth, stop)),
        ("maintenance", maintain),
        ("tenant-removal", removal::watch),
        ("package-store", upload::watch),
        ("execution-announcer", announcement::announce),
        ("execution-listener", announcement::listen),
        ("retention", retention::watch),
        ("refusals", watch_refusals),
    ];
    let mut watchers = Background::default();
    for (name, watch) in watches {
        let app = Arc::clone(app);
        watchers.start(name, move |stop| watch(&app, stop))?;
    }
    Ok(watchers)
}

/// Looks at the database now and then, and at once when a request has failed, so that `/ready` can answer without
/// asking. Nothing here may wait for the database without a limit: a session that is silent is found out by this
/// thread, and replaced.
fn watch_readiness(app: &App, stop: &AtomicBool) {
    app.store.status.watch_from_here();
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        app.store.look(CHECK_LIMIT);
        // Requests that fail one after another ask for no more looks than these.
        thread::sleep(LOOKS_APART);
        thread::park_timeout(CHECK_EVERY.saturating_sub(began.elapsed()));
    }
}

/// Does what has to be written or counted from time to time, and once more at the end. Waits for no lock and no standby:
/// reads may need the session.
fn maintain(app: &App, stop: &AtomicBool) {
    let limit = app.database_timeout;
    let mut next_count = Instant::now();
    let mut next_silent = Instant::now();
    let mut silent = SilentHosts::default();
    let mut waits_since = None;
    let mut stops = false;
    while !stops {
        // Looked at first: what was answered until then is in the last writing.
        stops = stop.load(Ordering::Acquire);
        app.auth.last_used.write(&app.store, limit);
        app.auth.undelivered.undo(&app.store, limit);
        if Instant::now() >= next_count && !stops {
            next_count = Instant::now() + COUNT_EVERY;
            count_keys(app, limit);
            count_tasks(app, limit);
        }
        if Instant::now() >= next_silent && !stops {
            next_silent = Instant::now() + ASK_FOR_SILENT_EVERY;
            ask_for_silent_hosts(app, &mut silent, limit);
            ask_whether_hosts_are_waited_for(app, &mut waits_since, limit);
        }
        if !stops {
            thread::park_timeout(CHECK_EVERY);
        }
    }
}

/// Brings the metrics' number of keys up to date.
fn count_keys(app: &App, limit: Duration) {
    match keys::store::count(&app.store, Instant::now() + limit) {
        Ok((active, revoked)) => app.status.metrics.set_keys(active, revoked),
        Err(error) => log::debug!("cannot count the keys: {error}"),
    }
}

/// Brings the metrics' figures of executions and tasks up to date.
fn count_tasks(app: &App, limit: Duration) {
    match executions::store::counts::count(&app.store, Instant::now() + limit) {
        Ok(counts) => app.status.metrics.tasks.set_counts(&counts),
        Err(error) => log::debug!("cannot count executions: {error}"),
    }
}

/// What was last known of them.
#[derive(Default)]
struct SilentHosts {
    known: Silent,
    /// The database could not be asked the last time: hosts could not be heard of either.
    was_away: bool,
}

/// Names hosts in the log that have become silent or are back, and counts them for `/ready` and the metrics.
fn ask_for_silent_hosts(app: &App, last: &mut SilentHosts, limit: Duration) {
    let silent = match hosts::store::silent(&app.store, Instant::now() + limit) {
        Ok(silent) => silent,
        Err(error) => {
            last.was_away = true;
            return log::debug!("cannot ask for silent hosts: {error}");
        }
    };
    if std::mem::take(&mut last.was_away) {
        return;
    }
    app.warnings.set_silent_hosts(silent.count);
    app.status.metrics.tasks.hosts_silent.set(i64::try_from(silent.count).unwrap_or(i64::MAX));
    let before = &mut last.known;
    for host in silent.names.iter().filter(|name| !before.names.contains(name)) {
        log::warn!(
            host:%;
            "the host {host} has been silent for a minute: what it runs stays its own until it is back, or until \
             `cloacinactl hosts forget {host}` says that it is gone"
        );
    }
    for host in before.names.iter().filter(|name| !silent.names.contains(name)) {
        log::info!(host:%; "the host {host} is silent no longer, or was forgotten");
    }
    *before = silent;
}

/// Says in the log and for `/ready` that executions have waited for hosts for long, since the database failed over.
fn ask_whether_hosts_are_waited_for(app: &App, since: &mut Option<Instant>, limit: Duration) {
    let hosts =
        match executions::store::earlier_timeline::hosts_waited_for(&app.store, Instant::now() + limit) {
            Ok(hosts) => hosts,
            Err(error) => return log::debug!("cannot ask whether executions wait for hosts: {error}"),
        };
    let first = *since.get_or_insert_with(Instant::now);
    if hosts == 0 {
        *since = None;
    }
    let is_long = hosts > 0 && first.elapsed() >= WAITED_FOR_LONG;
    let was_long = app.warnings.set_hosts_waited_for(if is_long { hosts } else { 0 }) > 0;
    match (was_long, is_long) {
        (false, true) => log::warn!(
            hosts;
            "executions from before a failover wait for hosts that have not said since then what they run: start their \
             servers, or say with `cloacinactl hosts forget NAME` that they are gone; `cloacinactl hosts list` names those \
             that are silent or start no task"
        ),
        (true, false) => log::info!("executions from before a failover wait no longer"),
        _ => {}
    }
}

/// One line for all that were refused since the last one: a flood of rubbish must not fill the disk.
fn watch_refusals(app: &App, stop: &AtomicBool) {
    // From zero on: some may have been refused before this thread had its first turn.
    let mut before: Vec<u64> = Vec::new();
    let mut stops = false;
    while !stops {
        thread::park_timeout(REPORT_EVERY);
        // Looked at first, so that the last line leaves none out.
        stops = stop.load(Ordering::Acquire);
        let now = app.status.metrics.refused();
        let mut counts: Vec<String> = now
            .iter()
            .zip(before.into_iter().chain(std::iter::repeat(0)))
            .filter(|((_, now), before)| now > before)
            .map(|((reason, now), before)| format!("{reason}: {}", now - before))
            .collect();
        match app.status.unlogged_failures() {
            0 => {}
            failed => counts.push(format!("failed without a line: {failed}")),
        }
        if !counts.is_empty() {
            log::warn!("refused since the last such line: {}", counts.join(", "));
        }
        before = now.into_iter().map(|(_, count)| count).collect();
    }
}
