//! Starts attempts on threads of its own, since making directories and processes takes time: `task-starter`, and for those
//! whose package is not there yet, `package-unpacker`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::attempts::AttemptSettings;
use super::names;
use super::own_children::OwnChildren;
use super::packages::{PackageError, Packages, Place};
use super::wake::Wake;
use crate::channel::{Receiver, Sender, channel};
use crate::config::private_directory;
use crate::engine::attempt::{Attempt, FORMAT, Spec, Supervised};
use crate::engine::environment::{AttemptName, environment};
use crate::engine::remove_tree::remove_tree;
use crate::engine::sandbox::Sandbox;
use crate::engine::supervisor::descendants;
use crate::executions::store::claim::Claimed;

const OUTPUT_LIMIT_BYTES: u64 = 1 << 20;
/// What programs expect that are not made for more.
const OPEN_FILES: u64 = 1024;
/// Packages that are unpacked at the same time: each takes a core, and memory.
const UNPACKERS: usize = 2;

/// What comes of a start.
pub enum Told {
    /// Its supervisor runs. Without a descriptor it is to be asked for another time.
    Started(Uuid, Supervised, Option<OwnedFd>),
    Failed(Uuid, String),
    /// Before anything of it had been started.
    Cancelled(Uuid),
    NeverStarted(Uuid),
    /// Its supervisor is gone, and so is all that it ran.
    Abandoned(Uuid, String),
}

/// Tells the thread that waits for ends.
#[derive(Clone)]
pub struct Teller {
    pub sender: Sender<Told>,
    pub wake: Wake,
}

impl Teller {
    pub fn tell(&self, told: Told) {
        // It may have ended, with the server.
        let _ = self.sender.send(told);
        self.wake.wake();
    }
}

pub struct Starter {
    pub settings: AttemptSettings,
    /// `HOME/attempts`.
    pub directory: PathBuf,
    pub packages: Packages,
    pub own: Arc<OwnChildren>,
    /// Those that are not to be started any more.
    pub cancelled: Mutex<HashSet<Uuid>>,
    /// Nothing is to be started any more. Each start holds this.
    pub is_over: RwLock<bool>,
    pub teller: Teller,
}

/// Starts the threads. They end when the sender is gone.
///
/// # Errors
/// The system has no thread left.
pub fn run(starter: &Arc<Starter>) -> io::Result<Sender<(Claimed, Place)>> {
    let (sender, claimed) = channel();
    let (to_unpack, places) = channel();
    let places = Arc::new(Mutex::new(places));
    for _ in 0..UNPACKERS {
        let (starter, places) = (Arc::clone(starter), Arc::clone(&places));
        let unpack = move || starter.unpack_each(&places);
        thread::Builder::new().name("package-unpacker".to_owned()).spawn(unpack)?;
    }
    let starter = Arc::clone(starter);
    let start = move || starter.start_each(&claimed, &to_unpack);
    thread::Builder::new().name("task-starter".to_owned()).spawn(start)?;
    Ok(sender)
}

impl Starter {
    fn start_each(&self, claimed: &Receiver<(Claimed, Place)>, to_unpack: &Sender<Place>) {
        while let Ok((claimed, place)) = claimed.recv() {
            if place.is_there() {
                self.start(&claimed, &place);
            } else if self.packages.wait_for(&place, claimed) {
                let _ = to_unpack.send(place);
            }
        }
    }

    fn unpack_each(&self, places: &Mutex<Receiver<Place>>) {
        loop {
            let next = places.lock().recv();
            let Ok(place) = next else { return };
            let (waited, unpacked) = self.packages.unpack(&place);
            for claimed in waited {
                match &unpacked {
                    Ok(()) => self.start(&claimed, &place),
                    Err(PackageError::Failed(why)) => {
                        self.teller.tell(Told::Failed(claimed.attempt, why.clone()));
                    }
                    Err(PackageError::NotRead(error)) => {
                        log::warn!(package:% = claimed.package_sha256, error:%; "a package cannot be read");
                        self.teller.tell(Told::NeverStarted(claimed.attempt));
                    }
                }
            }
        }
    }

    /// Starts that are under way are waited for: once this returns, the directories show all that there are.
    pub fn start_nothing_more(&self) {
        *self.is_over.write() = true;
    }

    pub fn start(&self, claimed: &Claimed, place: &Place) {
        let id = claimed.attempt;
        let told = catch_unwind(AssertUnwindSafe(|| self.try_to_start(claimed, place)));
        self.teller.tell(match told {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => Told::Failed(id, format!("it could not be started: {error}")),
            Err(_) => Told::Failed(id, "it could not be started: internal error".to_owned()),
        });
    }

    fn try_to_start(&self, claimed: &Claimed, place: &Place) -> io::Result<Told> {
        let id = claimed.attempt;
        let is_over = self.is_over.read();
        if *is_over {
            return Ok(Told::NeverStarted(id));
        }
        if self.cancelled.lock().remove(&id) {
            return Ok(Told::Cancelled(id));
        }
        let attempt = Attempt::at(&self.directory.join(id.to_string()))?;
        let spec = self.spec(claimed, &attempt, place.path());
        // Half made, it has the boot in its name: one of this boot has not been started.
        let half_made = self.directory.join(names::half_made(id, self.settings.boot));
        let made = Attempt::create(&half_made, &spec, &claimed.context)
            .and_then(|_| fs::rename(&half_made, attempt.directory()));
        if let Err(error) = made {
            let _ = remove_tree(&half_made);
            return Err(error);
        }
        // It may have come meanwhile.
        if self.cancelled.lock().remove(&id) {
            let _ = remove_tree(attempt.directory());
            return Ok(Told::Cancelled(id));
        }
        let program = &self.settings.program;
        match self.own.start(|| attempt.start_by(program, &BTreeMap::new())) {
            Ok(supervised) => {
                let descriptor = descriptor_of(&supervised);
                Ok(Told::Started(id, supervised, descriptor))
            }
            Err(error) => {
                let _ = remove_tree(attempt.directory());
                Err(error)
            }
        }
    }

    fn spec(&self, claimed: &Claimed, attempt: &Attempt, package: &Path) -> Spec {
        let (settings, manifest) = (&self.settings, &claimed.manifest);
        let task = &manifest.tasks[claimed.task];
        let version = manifest.version.to_string();
        let name = AttemptName {
            tenant: &claimed.tenant_name,
            workflow: manifest.name.as_str(),
            version: &version,
            execution_id: claimed.execution,
            task: task.id.as_str(),
            number: claimed.number,
        };
        let mut sandbox = Sandbox {
            mode: settings.sandbox,
            readable: claimed.readable.clone(),
            writable: claimed.writable.clone(),
        };
        sandbox.readable.push(package.to_owned());
        sandbox.writable.push(attempt.task_path());
        let cgroup = settings.cgroups.as_ref();
        let cgroup = cgroup.map(|cgroups| cgroups.of_attempt(&claimed.attempt.to_string(), task.max_memory));
        let in_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Spec {
            format: FORMAT,
            command: task.command.clone(),
            working_directory: package.to_owned(),
            environment: environment(attempt, &name, &manifest.env),
            timeout_ms: in_ms(task.timeout),
            grace_ms: in_ms(settings.grace),
            log_limit_bytes: settings.log_limit_bytes,
            output_limit_bytes: OUTPUT_LIMIT_BYTES,
            scratch_limit_bytes: claimed.scratch_limit_bytes,
            open_files: OPEN_FILES,
            user: settings.user.clone(),
            sandbox,
            cgroup,
            ends_with_parent: false,
            boot: Some(settings.boot),
        }
    }
}

/// To wait for its end by. There may be none left.
pub fn descriptor_of(supervised: &Supervised) -> Option<OwnedFd> {
    let process = i32::try_from(supervised.id()).ok()?;
    // Not waited for, so the id is its own.
    descendants::open(Pid::from_raw(process))
}

/// Makes a directory where it is missing, and sees to its mode.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    private_directory(path)?;
    if fs::metadata(path)?.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
