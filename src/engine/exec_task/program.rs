//! Finds the program of a command, executes it, and where that fails says why.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, geteuid};

use crate::terminal::{shown, start_of};

/// More of a file than the kernel looks at.
const HEAD_BYTES: u64 = 256;

/// What the header of a program for this machine has at offset 18.
const ELF_MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

pub struct Program {
    path: PathBuf,
    /// As it is in the command.
    name: String,
    command: Command,
}

impl Program {
    /// # Errors
    /// No directory of PATH has it, or it cannot be executed by any system.
    pub fn find(command: &[String], environment: Vec<(OsString, OsString)>) -> Result<Program, String> {
        let Some((name, arguments)) = command.split_first() else {
            return Err("the command is empty".to_owned());
        };
        let path = if name.contains('/') { PathBuf::from(name) } else { on_path(name, &environment)? };
        let mut command = Command::new(&path);
        command.arg0(name).args(arguments).env_clear().envs(environment);
        let program = Program { path, name: name.clone(), command };
        // Looked at here, since some C libraries hand what the kernel does not know to /bin/sh.
        match head(&program.path) {
            Ok(head) if head.starts_with(b"#!") => Ok(program),
            Ok(head) if !head.starts_with(b"\x7fELF") => {
                Err(program.explained("has no #! line and is no program"))
            }
            Ok(head) if head.get(18..20) != Some(&ELF_MACHINE.to_le_bytes()) => {
                Err(program.explained("is no program for this machine"))
            }
            _ => Ok(program),
        }
    }

    /// Comes back only where it cannot be executed: with the reason.
    pub fn execute(mut self) -> String {
        let error = self.command.exec();
        self.explained(&self.reason(&error))
    }

    fn explained(&self, reason: &str) -> String {
        format!("{}: {reason}", start_of(&self.name))
    }

    fn reason(&self, error: &io::Error) -> String {
        let is_there = fs::metadata(&self.path);
        match (Errno::from_raw(error.raw_os_error().unwrap_or(0)), is_there) {
            (Errno::ENOENT, Err(_)) => "is not there".to_owned(),
            (Errno::ENOENT, Ok(_)) => match interpreter(&self.path) {
                Some(interpreter) => missing(&interpreter),
                None => "the loader that it names is missing: it was linked for another system".to_owned(),
            },
            (Errno::EACCES, Ok(found)) if found.is_dir() => "is a directory".to_owned(),
            (Errno::EACCES, Ok(_)) => self.refused(),
            (Errno::ENOEXEC, _) => "is no program for this machine".to_owned(),
            (Errno::ETXTBSY, _) => "is being written to".to_owned(),
            (Errno::E2BIG, _) => "its arguments and environment are too long together".to_owned(),
            (_, _) => format!("cannot be executed: {error}"),
        }
    }

    /// Why one that is there may not be executed.
    fn refused(&self) -> String {
        if is_on_noexec(&self.path) {
            return "lies on a file system that is mounted with noexec".to_owned();
        }
        if access(&self.path, AccessFlags::X_OK).is_err() {
            let mode = fs::metadata(&self.path).map_or(0, |found| found.permissions().mode());
            return match mode & 0o111 {
                0 => "is not executable".to_owned(),
                _ => format!("is not executable for the task's user, {}", geteuid()),
            };
        }
        let Some(interpreter) = interpreter(&self.path) else {
            return "lies where the sandbox lets no task execute anything".to_owned();
        };
        let named = shown(&interpreter);
        if is_on_noexec(Path::new(&interpreter)) {
            return format!("its interpreter {named} lies on a file system that is mounted with noexec");
        }
        if access(Path::new(&interpreter), AccessFlags::X_OK).is_err() {
            return format!("its interpreter {named} is not executable");
        }
        format!("its interpreter {named} lies where the sandbox lets no task execute anything")
    }
}

/// A command without a slash, as a shell finds it.
fn on_path(name: &str, environment: &[(OsString, OsString)]) -> Result<PathBuf, String> {
    let path = environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
    let mut found = None;
    for directory in std::env::split_paths(&path.unwrap_or_default()) {
        let path = directory.join(name);
        if fs::metadata(&path).is_ok_and(|found| found.is_file()) {
            if access(&path, AccessFlags::X_OK).is_ok() {
                return Ok(path);
            }
            found.get_or_insert(path);
        }
    }
    Err(match found {
        Some(path) => format!("{}: {} is not executable", start_of(name), shown(&path.to_string_lossy())),
        None => format!("{}: no directory of PATH has it", start_of(name)),
    })
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

/// What the first line of a script names.
fn interpreter(path: &Path) -> Option<String> {
    let head = head(path).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    Some(String::from_utf8_lossy(&line[..end]).into_owned())
}

fn missing(interpreter: &str) -> String {
    match interpreter.strip_suffix('\r') {
        Some(_) => "its first line ends in a carriage return, as lines of Windows do: use lines that end in a line feed \
                    alone"
            .to_owned(),
        None => format!("its interpreter {} is missing", shown(interpreter)),
    }
}

fn is_on_noexec(path: &Path) -> bool {
    statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_NOEXEC))
}
