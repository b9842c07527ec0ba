//! The process that becomes a task's command. It is started with one thread and nothing of the server's, reads what the
//! attempt may do, gives up everything else, and executes the command.

mod identity;
mod program;
mod start;

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getppid};

use super::attempt::Spec;
use super::sandbox;
use crate::terminal::shown;

pub use start::{Started, start};

/// What a task's process ends with that could not execute the command. The reason goes to the supervisor.
const EXIT_CODE: u8 = 127;

/// The descriptor on which the supervisor waits for that reason.
const REPORT: RawFd = 3;

/// What the names of secrets begin with in this process's environment, so that none of them means anything to the
/// loader or to the libraries of this program, which is not confined yet.
const SECRET: &str = "task-secret:";

/// The kernel is to take a task before the server or a database when memory runs out.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// `exec-task SPEC PARENT`, or `exec-task --probe MODE`. No person types either.
pub fn main(arguments: &[OsString]) -> ExitCode {
    match arguments {
        [flag, mode] if flag == "--probe" => sandbox::probe_main(mode),
        [spec, parent] => {
            let Ok(mut report) = keep_the_report_alone()
                .inspect_err(|error| eprintln!("descriptor {REPORT} cannot be written to: {error}"))
            else {
                return ExitCode::from(EXIT_CODE);
            };
            let Err(reason) = become_the_task(Path::new(spec), parent);
            // Without a supervisor there is nothing left to tell.
            let _ = writeln!(report, "{}", shown(&reason));
            ExitCode::from(EXIT_CODE)
        }
        _ => ExitCode::from(2),
    }
}

/// Closes every descriptor above 2. What is left is the report's, anew, and closed by the command's execution.
fn keep_the_report_alone() -> io::Result<File> {
    let report = File::options().write(true).open(format!("/proc/self/fd/{REPORT}"))?;
    let entries = fs::read_dir("/proc/self/fd")?;
    let descriptors: Vec<RawFd> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for descriptor in descriptors.into_iter().filter(|one| *one > 2 && *one != report.as_raw_fd()) {
        // The one that listed them is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(report)
}

fn become_the_task(path: &Path, parent: &OsStr) -> Result<Infallible, String> {
    let spec: Spec = fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        .map_err(|error| format!("what the attempt is to do cannot be read: {error}"))?;
    // As `exec` sets it for a process of another user later on, which may not be allowed to then.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
    if let Some(cgroup) = &spec.cgroup {
        cgroup.enter().map_err(|error| format!("the task's cgroup cannot be entered: {error}"))?;
    }
    identity::assume(spec.user.as_ref())?;
    end_with(parent)?;
    let cannot = |what: &'static str| move |error: nix::Error| format!("{what}: {}", error.desc());
    limit(spec.open_files).map_err(cannot("the limits of a task cannot be set"))?;
    SigSet::empty().thread_set_mask().map_err(cannot("signals cannot be unblocked"))?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    env::set_current_dir(&spec.working_directory).map_err(|error| {
        let directory = shown(&spec.working_directory.to_string_lossy());
        format!("the task's working directory {directory} cannot be entered: {error}")
    })?;
    if let (None, Some(attempt)) = (&spec.user, path.parent()) {
        spec.sandbox.expect_closed(attempt).map_err(|error| error.to_string())?;
    }
    let secrets = env::vars_os().filter_map(|(name, value)| {
        name.as_bytes()
            .strip_prefix(SECRET.as_bytes())
            .map(|name| (OsStr::from_bytes(name).to_owned(), value))
    });
    let environment = spec.environment.iter().map(|(name, value)| (name.into(), value.into())).chain(secrets);
    let program = program::Program::find(&spec.command, environment.collect())?;
    spec.sandbox.confine().map_err(|error| error.to_string())?;
    Err(program.execute())
}

/// The kernel ends this process, also once it is the command, when the thread ends that started it.
fn end_with(parent: &OsStr) -> Result<(), String> {
    // After any change of ids, which clears it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| format!("the task cannot be bound to its supervisor: {}", error.desc()))?;
    let parent = parent.to_str().and_then(|parent| parent.parse().ok()).map(Pid::from_raw);
    if parent == Some(getppid()) { Ok(()) } else { Err("the supervisor is gone".to_owned()) }
}

fn limit(open_files: u64) -> nix::Result<()> {
    // A core would have secrets in it. A limit of 0 still hands it to a program that /proc/sys/kernel/core_pattern names;
    // 1 does not, and is too small for a file.
    let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, most.min(1), most.min(1))?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, open_files.min(most), most)
}
