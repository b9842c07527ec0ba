//! A thread that hears from the database what other servers changed, and lets the cache be trusted only for as long as
//! it would have heard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Auth;
use super::lease::{LEASE, since_boot};
use super::listener::{Invalidation, Listener};
use crate::postgres_link::ConnectError;

/// How often the database is asked for news when it sends none. Well below a lease.
const ASK_EVERY: Duration = Duration::from_millis(500);
const _: () = assert!(3 * ASK_EVERY.as_millis() < LEASE.as_millis());
/// Between two attempts to reach a database that is gone.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How often a new session is made, to see whether the way to the database leads to the same server still, and how long
/// that may take.
const SAME_SERVER_EVERY: Duration = Duration::from_secs(1);
const SAME_SERVER_LIMIT: Duration = Duration::from_secs(1);
const _: () = assert!(SAME_SERVER_EVERY.as_millis() + SAME_SERVER_LIMIT.as_millis() < LEASE.as_millis());

/// Runs until `stop` is set, which it notices within `ASK_EVERY` unless the database hangs.
pub fn watch(auth: &Auth, stop: &AtomicBool) {
    let mut is_down = false;
    while !stop.load(Ordering::Acquire) {
        auth.cache.distrust();
        let asked = since_boot();
        match Listener::open(&auth.store.factory, auth.server) {
            Ok(mut listener) => {
                if is_down {
                    log::info!("the link to the database is back; keys are cached again");
                }
                is_down = false;
                auth.cache.trust_until(asked.saturating_add(LEASE));
                match follow(auth, &mut listener, stop) {
                    Ok(()) => {
                        auth.cache.distrust();
                        let _ = listener.close();
                        return;
                    }
                    Err(error) => log::debug!("the link to the database broke: {error}"),
                }
                auth.cache.distrust();
                listener.give_up();
            }
            Err(error) if !is_down => {
                is_down = true;
                log::warn!("no link to the database, so no key is served from memory: {error}");
            }
            Err(_) => {}
        }
        thread::sleep(RETRY_AFTER);
    }
}

/// Trusts the cache from lease to lease, and empties it whenever a key has changed somewhere.
fn follow(auth: &Auth, listener: &mut Listener, stop: &AtomicBool) -> Result<(), ConnectError> {
    while !stop.load(Ordering::Acquire) {
        match listener.wait(ASK_EVERY)? {
            Invalidation::None { asked } => auth.cache.trust_until(asked.saturating_add(LEASE)),
            Invalidation::Change => {
                // In this order: a server that waits for us may go on as soon as we have said that we caught up.
                auth.cache.distrust();
                let asked = since_boot();
                listener.acknowledge()?;
                auth.cache.trust_until(asked.saturating_add(LEASE));
            }
        }
    }
    Ok(())
}

/// Runs until `stop` is set. Makes a session now and then, and where that leads to another server, nothing that is heard
/// on the link counts any more. On a thread that waits for nothing else: another server may wait for no longer than a
/// lease.
pub fn watch_server(auth: &Auth, stop: &AtomicBool) {
    let mut known = auth.store.factory.epoch();
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        auth.store.see_whether_it_is_the_same_server(SAME_SERVER_LIMIT);
        let now = auth.store.factory.epoch();
        if std::mem::replace(&mut known, now) != now {
            auth.cache.distrust();
        }
        thread::park_timeout(SAME_SERVER_EVERY.saturating_sub(began.elapsed()));
    }
}
