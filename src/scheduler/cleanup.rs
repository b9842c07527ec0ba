//! Two threads for what may take long after an attempt's end: `leftovers` ends what killed supervisors have left, and
//! `attempt-removal` removes directories and packages.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::leftovers::{self, Leftovers};
use super::own_children::OwnChildren;
use super::recovery::Abandoned;
use super::starter::{Teller, Told};
use crate::channel::{Receiver, Sender, channel};
use crate::engine::remove_tree::remove_tree;

/// How often processes are waited for that are no children of this process's own.
const REAP_EVERY: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

pub struct Cleanup {
    leftovers: Sender<(Uuid, Abandoned)>,
    removals: Sender<Job>,
}

impl Cleanup {
    /// Starts the threads. They end when this is gone.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(own: Arc<OwnChildren>, uid: u32, teller: Teller) -> io::Result<Cleanup> {
        let (leftovers, abandoned) = channel();
        let end = move || end_each(&abandoned, &own, uid, &teller);
        thread::Builder::new().name("leftovers".to_owned()).spawn(end)?;
        let (removals, jobs) = channel::<Job>();
        let remove = move || {
            while let Ok(job) = jobs.recv() {
                job();
            }
        };
        thread::Builder::new().name("attempt-removal".to_owned()).spawn(remove)?;
        Ok(Cleanup { leftovers, removals })
    }

    /// Ends what is left of an attempt whose supervisor is gone. `Told::Abandoned` follows.
    pub fn end_leftovers(&self, attempt: Uuid, abandoned: Abandoned) {
        let _ = self.leftovers.send((attempt, abandoned));
    }

    pub fn remove(&self, path: PathBuf) {
        self.run(move || remove(path));
    }

    /// Syncs all that is directly in a directory. There may be none, where nothing could be started.
    pub fn make_durable(&self, path: PathBuf) {
        self.run(move || {
            if let Err(error) = sync(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!(path:% = path.display(), error:%; "an attempt's directory may be lost with the power");
            }
        });
    }

    /// Does this after all other removals.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.removals.send(Box::new(job));
    }
}

fn end_each(abandoned: &Receiver<(Uuid, Abandoned)>, own: &OwnChildren, uid: u32, teller: &Teller) {
    loop {
        match abandoned.recv_timeout(REAP_EVERY) {
            Ok(first) => {
                // One look at all processes is for all attempts that wait for it.
                let batch = iter::once(first).chain(iter::from_fn(|| abandoned.try_recv().ok())).collect();
                for (attempt, why) in end_leftovers(batch, own, uid) {
                    teller.tell(Told::Abandoned(attempt, why));
                }
            }
            Err(RecvTimeoutError::Timeout) => own.reap(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Ends what is left of attempts, and says why each of them has ended.
pub fn end_leftovers(
    abandoned: HashMap<Uuid, Abandoned>,
    own: &OwnChildren,
    uid: u32,
) -> HashMap<Uuid, String> {
    if abandoned.is_empty() {
        return HashMap::new();
    }
    let left = Leftovers { attempts: &abandoned, uid, own }.end_all(leftovers::PATIENCE);
    let told = abandoned.into_iter().map(|(attempt, Abandoned { why, .. })| {
        let Some(count) = left.get(&attempt) else { return (attempt, why) };
        log::error!(attempt:%, processes = *count; "processes of an attempt could not be ended");
        (attempt, format!("{why}; {count} of its processes could not be ended"))
    });
    told.collect()
}

fn remove(path: PathBuf) {
    if let Err(error) = remove_tree(&path) {
        // The next server tries again.
        log::warn!(path:% = path.display(), error:%; "an attempt's directory cannot be removed");
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}
