//! Packages unpacked on this host, each once: `HOME/packages/TENANT/SHA256`. One that no attempt uses goes after a day.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::attempts::AttemptSettings;
use super::starter;
use crate::engine::remove_tree::remove_tree;
use crate::executions::store::claim::Claimed;
use crate::sha256;
use crate::workflows::archive::unpack_by;

/// Of a package of the largest size on a slow disk.
const LONGEST_UNPACKING: Duration = Duration::from_secs(600);

/// After its last use.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// More than any server takes as an upload.
const MOST_ARCHIVE_BYTES: u64 = 4 << 30;

/// What a package is called from when it is to be removed.
const REMOVED: &str = "removed-";

/// Reads a package's archive from an offset on; no bytes at its end.
pub type ReadPackage = Arc<dyn Fn(Uuid, u64) -> io::Result<Vec<u8>> + Send + Sync>;

/// Where one is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place(PathBuf);

pub struct Packages {
    directory: PathBuf,
    /// Of directories that a task of another user passes through, or not.
    mode: u32,
    read: ReadPackage,
    /// What unpacks: this program.
    program: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many attempts use it.
    uses: HashMap<Place, usize>,
    /// What waits for those that are being unpacked.
    waiting: HashMap<Place, VecDeque<Claimed>>,
}

/// Why a package is not there.
#[derive(Debug)]
pub enum PackageError {
    /// Its bytes cannot be read now.
    NotRead(io::Error),
    Failed(String),
}

impl Packages {
    /// Clears what an earlier server has left half done. The directory is made where it is missing.
    ///
    /// # Errors
    /// It cannot be made or listed.
    pub fn open(settings: &AttemptSettings, mode: u32) -> io::Result<Packages> {
        let directory = settings.home.join("packages");
        let (read, program) = (Arc::clone(&settings.read_package), settings.program.clone());
        starter::make_directory(&directory, mode)?;
        let packages = Packages { directory, mode, read, program, state: Mutex::default() };
        for tenant in fs::read_dir(&packages.directory)? {
            for entry in fs::read_dir(tenant?.path()).into_iter().flatten().flatten() {
                if !entry.file_name().to_str().is_some_and(is_sha256) {
                    remove(&entry.path());
                }
            }
        }
        Ok(packages)
    }

    /// Where the package of an attempt is or will be. It stays there until it is released as often as it was held.
    pub fn hold(&self, tenant: Uuid, sha256: &str) -> Option<Place> {
        let sha256 = Some(sha256).filter(|hash| is_sha256(hash))?;
        let place = Place(self.directory.join(tenant.to_string()).join(sha256));
        *self.state.lock().uses.entry(place.clone()).or_default() += 1;
        Some(place)
    }

    /// The same for an attempt of an earlier server, by the directory it works in.
    pub fn hold_at(&self, path: &Path) -> Option<Place> {
        let mut names = path.iter().rev().filter_map(|name| name.to_str());
        let (sha256, tenant) = (names.next()?, names.next()?);
        self.hold(Uuid::parse_str(tenant).ok()?, sha256)
    }

    pub fn release(&self, place: &Place) {
        let mut state = self.state.lock();
        if let Some(uses) = state.uses.get_mut(place) {
            *uses -= 1;
            if *uses == 0 {
                state.uses.remove(place);
            }
        }
        // When it was last used, also for the next server. At worst it is unpacked again.
        let _ = File::open(&place.0).and_then(|directory| directory.set_modified(SystemTime::now()));
    }

    /// Whether it is the first that waits for this package: then it is to be unpacked.
    pub fn wait_for(&self, place: &Place, claimed: Claimed) -> bool {
        let mut state = self.state.lock();
        let is_first = !state.waiting.contains_key(place);
        state.waiting.entry(place.clone()).or_default().push_back(claimed);
        is_first
    }

    /// Whether one waited, which does not any more.
    pub fn give_up(&self, place: &Place, attempt: Uuid) -> bool {
        let mut state = self.state.lock();
        // An empty list stays: the package is being unpacked.
        let Some(waiting) = state.waiting.get_mut(place) else { return false };
        let before = waiting.len();
        waiting.retain(|claimed| claimed.attempt != attempt);
        waiting.len() < before
    }

    /// Unpacks it, and hands over all that waited for it, those too that came meanwhile.
    pub fn unpack(&self, place: &Place) -> (Vec<Claimed>, Result<(), PackageError>) {
        let mut state = self.state.lock();
        let first = state.waiting.get(place).and_then(|waiting| waiting.front().cloned());
        let Some(first) = first else {
            // All that waited have given up. The next one has it unpacked.
            state.waiting.remove(place);
            return (Vec::new(), Ok(()));
        };
        drop(state);
        let unpacked = if place.is_there() {
            Ok(())
        } else {
            let unpacked = catch_unwind(AssertUnwindSafe(|| self.unpack_one(place, &first)));
            unpacked.unwrap_or_else(|_| {
                Err(PackageError::Failed("its package cannot be unpacked: internal error".to_owned()))
            })
        };
        let waited = self.state.lock().waiting.remove(place).unwrap_or_default();
        (waited.into(), unpacked)
    }

    fn unpack_one(&self, place: &Place, package: &Claimed) -> Result<(), PackageError> {
        let failed = |error: &dyn std::fmt::Display| {
            PackageError::Failed(format!("its package cannot be unpacked: {error}"))
        };
        let parent = place.0.parent().unwrap_or(&self.directory);
        starter::make_directory(parent, self.mode).map_err(|error| failed(&error))?;
        let archive = self.fetch(package, parent)?;
        let until = Instant::now() + LONGEST_UNPACKING;
        unpack_by(&self.program, archive, &place.0, until).map_err(|error| failed(&error))
    }

    /// Its archive, in a file without a name.
    fn fetch(&self, package: &Claimed, directory: &Path) -> Result<File, PackageError> {
        let written = |error: io::Error| PackageError::Failed(format!("its package cannot be kept: {error}"));
        let path = directory.join(format!("archive-{}", Uuid::new_v4()));
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut file = opened.map_err(written)?;
        fs::remove_file(&path).map_err(written)?;
        let (mut hash, mut at) = (Sha256::new(), 0);
        loop {
            let piece = (self.read)(package.package, at).map_err(PackageError::NotRead)?;
            if piece.is_empty() {
                break;
            }
            hash.update(&piece);
            file.write_all(&piece).map_err(written)?;
            at += piece.len() as u64;
            if at > MOST_ARCHIVE_BYTES {
                return Err(PackageError::Failed("its package is longer than any can be".to_owned()));
            }
        }
        let sha256 = sha256::hex(hash.finalize());
        if sha256 != package.package_sha256 {
            let expected = &package.package_sha256;
            return Err(PackageError::Failed(format!(
                "its package is damaged in the database: its SHA-256 is {sha256}, and {expected} was uploaded; delete \
                 this version, and upload it again"
            )));
        }
        file.rewind().map_err(written)?;
        Ok(file)
    }

    /// Removes those that no attempt has used for a day. How many.
    pub fn clear_unused(&self) -> usize {
        self.clear_older_than(KEPT)
    }

    fn clear_older_than(&self, kept: Duration) -> usize {
        let mut removed = 0;
        for tenant in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            for entry in fs::read_dir(tenant.path()).into_iter().flatten().flatten() {
                let modified = entry.metadata().and_then(|found| found.modified());
                let is_old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= kept));
                if is_old
                    && entry.file_name().to_str().is_some_and(is_sha256)
                    && let Some(path) = self.move_away(&Place(entry.path()))
                {
                    remove(&path);
                    removed += 1;
                }
            }
            let state = self.state.lock();
            if !state.uses.keys().any(|place| place.0.starts_with(tenant.path())) {
                // One that is not empty stays.
                let _ = fs::remove_dir(tenant.path());
            }
        }
        removed
    }

    /// At once, so that none finds it half there.
    fn move_away(&self, place: &Place) -> Option<PathBuf> {
        let state = self.state.lock();
        let is_used = state.uses.contains_key(place) || state.waiting.contains_key(place);
        let removed = place.0.parent()?.join(format!("{REMOVED}{}", Uuid::new_v4()));
        (!is_used && fs::rename(&place.0, &removed).is_ok()).then_some(removed)
    }
}

impl Place {
    pub fn is_there(&self) -> bool {
        self.0.is_dir()
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn remove(path: &Path) {
    if let Err(error) = remove_tree(path) {
        log::warn!(path:% = path.display(), error:%; "what is left of a package cannot be removed");
    }
}
