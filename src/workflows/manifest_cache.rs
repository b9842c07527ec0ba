//! Manifests that were read before. A version has one content for ever, so none of them gets old.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use lru::LruCache;
use parking_lot::Mutex;
use uuid::Uuid;

use super::manifest::{Found, Manifest};
use super::problem::Problem;

/// Manifests that are remembered, and how long their texts may be together.
const MOST_MANIFESTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
const MOST_BYTES: usize = 1024 * 1024;

/// Of one tenant, by name and version.
type Key = (Uuid, String, String);

struct Cache {
    manifests: LruCache<Key, (Arc<Manifest>, usize)>,
    bytes: usize,
}

static CACHE: LazyLock<Mutex<Cache>> =
    LazyLock::new(|| Mutex::new(Cache { manifests: LruCache::new(MOST_MANIFESTS), bytes: 0 }));

/// The manifest of a version that was read a while ago.
pub fn cached(tenant: Uuid, name: &str, version: &str) -> Option<Arc<Manifest>> {
    let key = (tenant, name.to_owned(), version.to_owned());
    CACHE.lock().manifests.get(&key).map(|(manifest, _)| Arc::clone(manifest))
}

/// Reads the manifest of a package that was checked when it was uploaded, and remembers it.
///
/// # Errors
/// What is wrong with it by now: a bug.
pub fn read(tenant: Uuid, name: &str, version: &str, text: &str) -> Result<Arc<Manifest>, Vec<Problem>> {
    let manifest = Arc::new(Manifest::parse(text, &|_| Found::Known)?);
    let key = (tenant, name.to_owned(), version.to_owned());
    let mut cache = CACHE.lock();
    cache.bytes += text.len();
    if let Some((_, (_, bytes))) = cache.manifests.push(key, (Arc::clone(&manifest), text.len())) {
        cache.bytes -= bytes;
    }
    while cache.bytes > MOST_BYTES {
        let Some((_, (_, bytes))) = cache.manifests.pop_lru() else { break };
        cache.bytes -= bytes;
    }
    Ok(manifest)
}
