//! A thread that hears from the database what other servers changed, and lets the cache be trusted only for as long as
//! it would have heard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Keys;
use crate::store::ConnectError;
use crate::store::changes::{LEASE, Link, News, since_boot};

/// How often the database is asked for news when it sends none. Well below a lease.
const ASK_EVERY: Duration = Duration::from_millis(500);
const _: () = assert!(3 * ASK_EVERY.as_millis() < LEASE.as_millis());
/// Between two attempts to reach a database that is gone.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Runs until `stop` is set, which it notices within `ASK_EVERY` unless the database hangs.
pub fn watch(keys: &Keys, stop: &AtomicBool) {
    let mut is_down = false;
    while !stop.load(Ordering::Acquire) {
        keys.cache.distrust();
        let asked = since_boot();
        match keys.store.link(keys.server) {
            Ok(mut link) => {
                if is_down {
                    log::info!("the link to the database is back; keys are cached again");
                }
                is_down = false;
                keys.cache.trust_until(asked.saturating_add(LEASE));
                match follow(keys, &mut link, stop) {
                    Ok(()) => {
                        keys.cache.distrust();
                        let _ = link.close();
                        return;
                    }
                    Err(error) => log::debug!("the link to the database broke: {error}"),
                }
                keys.cache.distrust();
                link.give_up();
            }
            Err(error) if !is_down => {
                is_down = true;
                log::warn!("no link to the database, so no key is served from memory: {error}");
            }
            Err(_) => {}
        }
        std::thread::sleep(RETRY_AFTER);
    }
}

/// Trusts the cache from lease to lease, and empties it whenever a key has changed somewhere.
fn follow(keys: &Keys, link: &mut Link, stop: &AtomicBool) -> Result<(), ConnectError> {
    while !stop.load(Ordering::Acquire) {
        match link.wait(ASK_EVERY)? {
            News::None { asked } => keys.cache.trust_until(asked.saturating_add(LEASE)),
            News::Change => {
                // In this order: a server that waits for us may go on as soon as we have said that we caught up.
                keys.cache.distrust();
                let asked = since_boot();
                link.catch_up()?;
                keys.cache.trust_until(asked.saturating_add(LEASE));
            }
        }
    }
    Ok(())
}
