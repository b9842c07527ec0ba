//! What has become of an attempt, told from what is in its directory.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::unistd::Pid;
use uuid::Uuid;

use crate::engine::attempt::{Attempt, NEVER, Outcome};
use crate::engine::cgroup::AttemptCgroup;
use crate::engine::supervisor::descendants;

/// More than a process id and `NEVER` take.
const MOST_LOCK_BYTES: u64 = 64;

/// What was found.
#[derive(Debug)]
pub struct Facts {
    pub lock: Lock,
    /// Read after the lock: where that was free, nothing changes it any more.
    pub outcome: Result<Option<Outcome>, String>,
    /// The boot that it was made in, if that can be read.
    pub boot: Option<Uuid>,
    pub cgroup: Option<AttemptCgroup>,
}

#[derive(Debug)]
pub enum Lock {
    /// By its supervisor.
    Held,
    /// By nothing else, so this process has it, with what the file holds.
    Taken(String),
    /// It is not there or cannot be read.
    Unknown(String),
}

/// What has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Ended(Box<Outcome>),
    /// Its supervisor lives.
    Alive,
    /// Nothing of it has run, and nothing will once `seal` has been called.
    NeverStarted,
    /// Its supervisor is gone.
    Abandoned(Abandoned),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    pub why: String,
    /// There may be processes of it, unless the system was started anew since.
    pub may_have_left: bool,
    /// The process that its supervisor was.
    pub supervisor: Option<i32>,
    /// Where its processes are, if it has one.
    pub cgroup: Option<AttemptCgroup>,
}

/// `boot` is that of the system that runs now.
pub fn judge(facts: Facts, boot: Uuid) -> Verdict {
    let is_this_boot = facts.boot == Some(boot);
    // One that does not say when it was made may be of this boot.
    let may_have_left = facts.boot.is_none_or(|its| its == boot);
    let supervisor = match &facts.lock {
        Lock::Taken(text) if is_this_boot => text.parse().ok(),
        _ => None,
    };
    let cgroup = facts.cgroup;
    let abandoned =
        |why: &str| Verdict::Abandoned(Abandoned { why: why.to_owned(), may_have_left, supervisor, cgroup });
    match (facts.outcome, facts.lock) {
        (Ok(Some(outcome)), _) => Verdict::Ended(Box::new(outcome)),
        (_, Lock::Held) => Verdict::Alive,
        (Err(why), _) => abandoned(&format!("what came of it cannot be read: {why}")),
        (Ok(None), Lock::Unknown(why)) => abandoned(&format!("its directory cannot be read: {why}")),
        (Ok(None), Lock::Taken(text)) if text == NEVER => Verdict::NeverStarted,
        (Ok(None), Lock::Taken(text)) if text.is_empty() && is_this_boot => Verdict::NeverStarted,
        (Ok(None), Lock::Taken(_)) if is_this_boot => abandoned("its supervisor was killed"),
        (Ok(None), Lock::Taken(_)) if facts.boot.is_some() => {
            abandoned("its host was restarted while it may have run")
        }
        (Ok(None), Lock::Taken(_)) => abandoned("its directory does not say when it was made"),
    }
}

/// Looks at a directory. The lock is returned where it was free, and must be kept as long as the verdict matters.
pub fn examine(attempt: &Attempt) -> (Facts, Option<File>) {
    let (lock, file) = match take(attempt) {
        Ok(Some((text, file))) => (Lock::Taken(text), Some(file)),
        Ok(None) => (Lock::Held, None),
        Err(error) => (Lock::Unknown(error.to_string()), None),
    };
    let outcome = attempt.outcome().map_err(|error| error.to_string());
    // Of one that has an outcome it does not matter.
    let spec = if matches!(outcome, Ok(Some(_))) { None } else { attempt.spec().ok() };
    let (boot, cgroup) = spec.map_or((None, None), |spec| (spec.boot, spec.cgroup));
    (Facts { lock, outcome, boot, cgroup }, file)
}

/// The lock with what is in it, unless it is held.
fn take(attempt: &Attempt) -> io::Result<Option<(String, File)>> {
    let file = attempt.open_lock()?;
    match file.try_lock() {
        Ok(()) => Ok(Some((read(&file)?, file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(lock: &File) -> io::Result<String> {
    let mut text = String::new();
    lock.take(MOST_LOCK_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Sees to it that a supervisor that comes late starts nothing, also once the lock is free again.
///
/// # Errors
/// It cannot be written: then the lock itself must be kept.
pub fn seal(mut lock: &File) -> io::Result<()> {
    if lock.metadata()?.len() == 0 { lock.write_all(NEVER.as_bytes()) } else { Ok(()) }
}

/// A descriptor of the supervisor that holds the lock; `None` where it has not said yet which process it is, or has ended
/// meanwhile.
pub fn adopt(attempt: &Attempt) -> Option<OwnedFd> {
    let text = read(&attempt.open_lock().ok()?).ok()?;
    let process = Pid::from_raw(text.parse().ok()?);
    let descriptor = descendants::open(process)?;
    // The id may be another one's by now; but not of a process that supervises this very attempt.
    let supervises = supervises(process, attempt);
    let is_held = matches!(take(attempt), Ok(None));
    (supervises && is_held).then_some(descriptor)
}

fn supervises(process: Pid, attempt: &Attempt) -> bool {
    let Ok(line) = fs::read(format!("/proc/{process}/cmdline")) else { return false };
    let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
    // By its name, which is a UUID: the path to it may be another one than it was.
    let Some(name) = attempt.directory().file_name() else { return false };
    arguments.windows(2).any(|pair| {
        pair[0] == b"supervise-task" && Path::new(OsStr::from_bytes(pair[1])).file_name() == Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::attempt::{End, FORMAT};

    #[test]
    fn what_has_become_of_an_attempt() {
        let [boot, earlier] = [1, 2].map(Uuid::from_u128);
        let outcome = Outcome {
            format: FORMAT,
            end: End::Exited(0),
            output: None,
            started_at_ms: 1,
            ended_at_ms: 2,
            log_bytes: 0,
            log_kept_bytes: 0,
            warnings: Vec::new(),
        };
        let ended = Verdict::Ended(Box::new(outcome.clone()));
        let abandoned = |may_have_left, why: &str| {
            Verdict::Abandoned(Abandoned {
                why: why.to_owned(),
                may_have_left,
                supervisor: None,
                cgroup: None,
            })
        };
        let restarted = abandoned(false, "its host was restarted while it may have run");
        let unknown = abandoned(true, "its directory does not say when it was made");
        let killed = Verdict::Abandoned(Abandoned {
            why: "its supervisor was killed".to_owned(),
            may_have_left: true,
            supervisor: Some(17),
            cgroup: None,
        });
        let unread = |may| abandoned(may, "its directory cannot be read: gone");
        type Row = (fn() -> Lock, Verdict, Verdict, Verdict);
        // Of this boot, of an earlier one, and of an unknown one.
        let table: [Row; 5] = [
            (|| Lock::Held, Verdict::Alive, Verdict::Alive, Verdict::Alive),
            (|| Lock::Taken(String::new()), Verdict::NeverStarted, restarted.clone(), unknown.clone()),
            (|| Lock::Taken("17".to_owned()), killed, restarted.clone(), unknown.clone()),
            (
                || Lock::Taken(NEVER.to_owned()),
                Verdict::NeverStarted,
                Verdict::NeverStarted,
                Verdict::NeverStarted,
            ),
            (|| Lock::Unknown("gone".to_owned()), unread(true), unread(false), unread(true)),
        ];
        for (lock, this, before, unknown) in table {
            for (its, expected) in [(Some(boot), this), (Some(earlier), before), (None, unknown)] {
                let judged = |outcome| judge(Facts { lock: lock(), outcome, boot: its, cgroup: None }, boot);
                assert_eq!(judged(Ok(None)), expected, "{:?} {its:?}", lock());
                // An outcome is the end, whatever else there is.
                assert_eq!(judged(Ok(Some(outcome.clone()))), ended);
                let is_held = matches!(lock(), Lock::Held);
                match judged(Err("of format 2".to_owned())) {
                    Verdict::Alive => assert!(is_held),
                    Verdict::Abandoned(Abandoned { why, may_have_left, .. }) => {
                        assert_eq!(why, "what came of it cannot be read: of format 2");
                        assert_eq!((is_held, may_have_left), (false, its != Some(earlier)));
                    }
                    verdict => panic!("{verdict:?}"),
                }
            }
        }
    }
}
