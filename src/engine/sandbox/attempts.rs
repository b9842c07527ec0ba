//! The sandbox tried: in a process of its own it is set up, and then some of what a task must not do is attempted.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

use nix::sys::signal::kill;
use nix::unistd::getppid;

use super::{Level, Mode, Sandbox};

/// The process that `probe` starts. On stdout: what stays open, or why the mode cannot be held.
pub fn main(mode: &OsStr) -> ExitCode {
    let Some(mode) = mode.to_str().and_then(Mode::from_name) else { return ExitCode::from(2) };
    let (lines, code) = match attempt(mode) {
        Ok(open) => (open.join("\n"), ExitCode::SUCCESS),
        Err(why) => (why, ExitCode::FAILURE),
    };
    println!("{lines}");
    code
}

fn attempt(mode: Mode) -> Result<Vec<String>, String> {
    if mode == Mode::Off {
        return Ok(vec!["everything that its user may do: there is no sandbox".to_owned()]);
    }
    // As every task does; with root's, a kernel shows more of other processes.
    super::give_up_capabilities().map_err(|error| error.to_string())?;
    let sandbox = Sandbox { mode, readable: Vec::new(), writable: Vec::new() };
    let level = sandbox.apply().map_err(|error| error.to_string())?;
    match succeeded(&level) {
        None => Ok(level.open()),
        Some(what) => Err(format!(
            "the sandbox is set up and does not hold: {what} succeeded in it. `--sandbox off` runs tasks without one"
        )),
    }
}

/// What should have been refused at this level, and was not.
fn succeeded(level: &Level) -> Option<&'static str> {
    let parent = getppid();
    let closes_files = level.files_and_signals.closes_files();
    let scopes_signals = level.files_and_signals.scopes_signals();
    let environment = fs::read(format!("/proc/{parent}/environ"));
    let attempts: [(bool, &'static str, io::Result<()>); 4] = [
        (closes_files, "listing the root directory", fs::read_dir("/").map(drop)),
        (closes_files, "reading another process's environment", environment.map(drop)),
        (scopes_signals, "a signal to another process", kill(parent, None).map_err(io::Error::from)),
        (level.system_calls.is_ok(), "making a Unix socket", UnixDatagram::unbound().map(drop)),
    ];
    attempts.into_iter().find_map(|(is_closed, what, attempt)| (is_closed && attempt.is_ok()).then_some(what))
}
