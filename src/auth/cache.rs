//! The LRU cache of validated keys, which would rather be empty than stale.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lru::LruCache;

use super::Principal;
use super::api_key::KeyHash;
use super::lease::since_boot;

/// Keys that were found valid, each for at most the TTL, and none unless the cache may be trusted now.
pub struct Cache {
    state: Mutex<State>,
    ttl: Duration,
}

/// Each key until a time `since_boot`.
type Keys = LruCache<KeyHash, (Arc<Principal>, Duration)>;

struct State {
    /// `None`: switched off.
    keys: Option<Keys>,
    /// Grows whenever what was read from the database before may be out of date.
    generation: u64,
    /// Until when, since boot, we would have heard of changes by other servers.
    trusted_until: Option<Duration>,
}

/// Leave to remember what a lookup finds that begins now.
#[derive(Debug, Clone, Copy)]
pub struct CacheGeneration(Option<u64>);

impl Cache {
    /// `entries` 0 switches it off.
    pub fn new(entries: usize, ttl: Duration) -> Cache {
        let keys = NonZeroUsize::new(entries).map(empty);
        Cache { state: Mutex::new(State { keys, generation: 0, trusted_until: None }), ttl }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            // The thread that held it may have left it half changed: forget all.
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            drop(state.forget());
            state
        })
    }

    /// Who this key belongs to, or the generation for the lookup that has to find out.
    pub fn get(&self, hash: &KeyHash) -> Result<Arc<Principal>, CacheGeneration> {
        let now = since_boot();
        let mut state = self.state();
        if state.trusted_until.is_none_or(|until| now >= until) {
            return Err(CacheGeneration(None));
        }
        let generation = state.generation;
        let found = state.keys.as_mut().and_then(|keys| keys.get(hash));
        match found {
            Some((principal, until)) if now < *until => Ok(Arc::clone(principal)),
            _ => Err(CacheGeneration(Some(generation))),
        }
    }

    /// Remembers what a lookup found until the key may have ended, a time `since_boot`, unless something has changed
    /// since the generation was drawn.
    pub fn put(
        &self,
        generation: CacheGeneration,
        hash: KeyHash,
        principal: Arc<Principal>,
        ends: Option<Duration>,
    ) {
        let oldest = since_boot().saturating_add(self.ttl);
        let until = ends.map_or(oldest, |ends| ends.min(oldest));
        let mut state = self.state();
        let is_fresh = generation.0 == Some(state.generation);
        if let Some(keys) = state.keys.as_mut().filter(|_| is_fresh) {
            keys.put(hash, (principal, until));
        }
    }

    /// Forgets all keys, and what lookups that are under way will find. To be called once a change
    /// of keys was tried, whether or not it is known to be committed, and before its client is answered.
    pub fn clear(&self) {
        let forgotten = self.state().forget();
        drop(forgotten);
    }

    /// Changes by others may go unheard from now on: nothing is remembered or believed until `trust_until`.
    pub fn distrust(&self) {
        let mut state = self.state();
        let forgotten = state.forget();
        state.trusted_until = None;
        drop(state);
        drop(forgotten);
    }

    /// Changes by others will be heard of until then, a time `since_boot`.
    pub fn trust_until(&self, until: Duration) {
        let mut state = self.state();
        // Where it was not trusted until now, what it may have missed is not known.
        let was_trusted = state.trusted_until.is_some_and(|before| before > since_boot());
        let forgotten = if was_trusted { None } else { state.forget() };
        state.trusted_until = Some(until);
        drop(state);
        drop(forgotten);
    }
}

impl State {
    /// What was remembered, to be dropped once the lock is given back: the event loop waits for that, and a large cache
    /// takes long to drop.
    #[must_use]
    fn forget(&mut self) -> Option<Keys> {
        self.generation += 1;
        self.keys.as_mut().map(|keys| std::mem::replace(keys, empty(keys.cap())))
    }
}

/// Takes no memory for entries that are not there.
fn empty(entries: NonZeroUsize) -> Keys {
    let mut keys = LruCache::unbounded();
    keys.resize(entries);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(entries: usize, ttl: Duration) -> Cache {
        let cache = Cache::new(entries, ttl);
        cache.trust_until(since_boot() + Duration::from_secs(3600));
        cache
    }

    fn remember(cache: &Cache, key: &str) {
        let Err(generation) = cache.get(&KeyHash::of(key)) else { panic!("{key} is there already") };
        cache.put(generation, KeyHash::of(key), Arc::new(Principal::for_tests(key)), None);
    }

    fn has(cache: &Cache, key: &str) -> bool {
        cache.get(&KeyHash::of(key)).is_ok_and(|principal| principal.name == key)
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn remembers_the_last_used() {
        let cache = trusted(2, LONG);
        for key in ["a", "b"] {
            remember(&cache, key);
        }
        assert!(has(&cache, "a"));
        remember(&cache, "c");
        assert_eq!(["a", "b", "c"].map(|key| has(&cache, key)), [true, false, true]);
    }

    #[test]
    fn a_lookup_that_began_before_a_change_remembers_nothing() {
        let cache = trusted(8, LONG);
        let Err(generation) = cache.get(&KeyHash::of("a")) else { panic!() };
        cache.clear();
        cache.put(generation, KeyHash::of("a"), Arc::new(Principal::for_tests("a")), None);
        assert!(!has(&cache, "a"));
        remember(&cache, "a");
        assert!(has(&cache, "a"));
        cache.clear();
        assert!(!has(&cache, "a"));
    }

    #[test]
    fn what_is_not_trusted_is_neither_believed_nor_remembered() {
        let cache = Cache::new(8, LONG);
        remember(&cache, "a");
        assert!(!has(&cache, "a"));
        let Err(generation) = cache.get(&KeyHash::of("a")) else { panic!() };
        cache.trust_until(since_boot() + LONG);
        cache.put(generation, KeyHash::of("a"), Arc::new(Principal::for_tests("a")), None);
        assert!(!has(&cache, "a"), "its lookup began before there was trust");
        remember(&cache, "a");
        cache.distrust();
        assert!(!has(&cache, "a"));
        remember(&cache, "a");
        assert!(!has(&cache, "a"), "it was remembered while nothing was heard");
        cache.trust_until(since_boot() + LONG);
        assert!(!has(&cache, "a"), "nobody knows what was missed meanwhile");
        remember(&cache, "a");
        // A lease that ran out unnoticed, as after a long stop of the process.
        cache.trust_until(since_boot());
        assert!(!has(&cache, "a"));
        cache.trust_until(since_boot() + LONG);
        assert!(!has(&cache, "a"));
    }

    #[test]
    fn entries_end() {
        let ttl = Duration::from_millis(20);
        let cache = trusted(8, ttl);
        remember(&cache, "a");
        let remembered = since_boot();
        while since_boot() <= remembered + ttl {
            std::thread::yield_now();
        }
        assert!(!has(&cache, "a"));
        let cache = trusted(8, LONG);
        for (ends, is_there) in [(since_boot(), false), (since_boot() + LONG, true)] {
            let Err(generation) = cache.get(&KeyHash::of("a")) else { panic!() };
            cache.put(generation, KeyHash::of("a"), Arc::new(Principal::for_tests("a")), Some(ends));
            assert_eq!(has(&cache, "a"), is_there);
        }
    }

    #[test]
    fn none_is_allowed() {
        let cache = trusted(0, LONG);
        remember(&cache, "a");
        assert!(!has(&cache, "a"));
    }

    #[test]
    fn a_panic_while_it_is_held_empties_it() {
        let cache = Arc::new(trusted(8, LONG));
        remember(&cache, "a");
        let held = Arc::clone(&cache);
        std::thread::spawn(move || {
            let _held = held.state.lock().unwrap();
            panic!("on purpose");
        })
        .join()
        .unwrap_err();
        assert!(!has(&cache, "a"));
        remember(&cache, "a");
        assert!(has(&cache, "a"));
    }
}
