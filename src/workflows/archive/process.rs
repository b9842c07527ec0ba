//! Unpacking in a process of its own: what an archive of a stranger may cost is bounded by the kernel, and a server that
//! executes files never holds one of them open for writing.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::unpack::{partial_path, unpack};
use super::{MOST_BYTES, WalkError};
use crate::channel::{Receiver, channel};
use crate::engine::remove_tree::remove_tree;
use crate::workflows::problem::Problem;

/// Beside what the process has when it begins, most of which its allocator has only reserved.
const MOST_MEMORY_BYTES: u64 = 256 << 20;
const MOST_CPU_SECONDS: u64 = 300;
const MOST_OPEN_FILES: u64 = 64;
/// More than all problems of an archive take.
const MOST_REPORT_BYTES: u64 = 4 << 20;
/// After it was killed. A disk that hangs holds a process longer.
const MOST_WAIT_FOR_END: Duration = Duration::from_secs(5);

/// A line that the process writes to its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Problem(Problem),
    /// Why nothing can be said about the archive.
    Failed(String),
}

#[derive(Debug)]
pub enum UnpackError {
    /// All that is wrong with the archive; at least one.
    Problems(Vec<Problem>),
    /// Nothing can be said about the archive.
    Failed(String),
    /// It was not done by then, and was ended.
    TimedOut,
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnpackError::Problems(problems) => {
                let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            UnpackError::Failed(line) => write!(f, "cannot unpack the package: {line}"),
            UnpackError::TimedOut => f.write_str("unpacking the package took too long, and was ended"),
        }
    }
}

/// Unpacks the archive, from where it is read next, into `destination`, which must not exist. Its parent must.
///
/// # Errors
/// It could not be done until then. Nothing of it is left, unless the disk hangs; what is then left goes when a package is
/// unpacked beside it the next time.
pub fn unpack_in_process(archive: File, destination: &Path, until: Instant) -> Result<(), UnpackError> {
    unpack_by(Path::new("/proc/self/exe"), archive, destination, until)
}

/// The same, with a program that is called as this one would be.
///
/// # Errors
/// As `unpack_in_process`.
pub fn unpack_by(
    program: &Path,
    archive: File,
    destination: &Path,
    until: Instant,
) -> Result<(), UnpackError> {
    let failed = |error: io::Error| UnpackError::Failed(error.to_string());
    let id = Uuid::new_v4();
    let mut command = Command::new(program);
    command.arg("unpack-package").arg(destination).arg(id.to_string()).env_clear();
    command.stdin(archive).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let ended = child.stdout.take().ok_or_else(|| io::Error::other("no pipe")).and_then(read_to_end_of);
    let told = match &ended {
        Ok(reports) => reports.recv_timeout(until.saturating_duration_since(Instant::now())),
        Err(_) => Err(RecvTimeoutError::Disconnected),
    };
    let result = match (told, &ended) {
        (Ok(reports), _) => return outcome(child, reports, &partial_path(destination, id)),
        (Err(_), Ok(_)) => UnpackError::TimedOut,
        (Err(_), Err(error)) => UnpackError::Failed(error.to_string()),
    };
    child.kill().map_err(failed)?;
    let is_gone = ended.is_ok_and(|reports| reports.recv_timeout(MOST_WAIT_FOR_END).is_ok());
    if is_gone {
        child.wait().map_err(failed)?;
        remove(&partial_path(destination, id));
    }
    Err(result)
}

/// What the process wrote, once it has ended: it closes its standard output in no other way.
fn read_to_end_of(output: ChildStdout) -> io::Result<Receiver<Vec<Report>>> {
    let (sender, receiver) = channel();
    let read = move || {
        let lines = BufReader::new(output.take(MOST_REPORT_BYTES)).split(b'\n');
        let reports = lines.map_while(Result::ok).filter_map(|line| serde_json::from_slice(&line).ok());
        // Its receiver may have given up.
        let _ = sender.send(reports.collect());
    };
    thread::Builder::new().name("unpack-report".to_owned()).spawn(read)?;
    Ok(receiver)
}

fn outcome(mut child: Child, reports: Vec<Report>, partial: &Path) -> Result<(), UnpackError> {
    let status = child.wait().map_err(|error| UnpackError::Failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    // A process that was killed could not do it itself.
    remove(partial);
    let mut problems = Vec::new();
    for report in reports {
        match report {
            Report::Problem(problem) => problems.push(problem),
            Report::Failed(line) => return Err(UnpackError::Failed(line)),
        }
    }
    match problems.is_empty() {
        true => Err(UnpackError::Failed(format!("its process ended without a reason ({status})"))),
        false => Err(UnpackError::Problems(problems)),
    }
}

fn remove(partial: &Path) {
    // The next one beside it tries again.
    let _ = remove_tree(partial);
}

/// The process: `unpack-package DESTINATION UUID`, with the archive as standard input.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let reports = match run(arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(WalkError::Problems(problems)) => problems.into_iter().map(Report::Problem).collect(),
        Err(WalkError::Read(error)) => vec![Report::Failed(format!("the archive cannot be read: {error}"))],
        Err(WalkError::Write(error)) => vec![Report::Failed(error.to_string())],
    };
    let mut output = io::stdout().lock();
    for report in &reports {
        let line = serde_json::to_string(report).unwrap_or_default();
        // Without a reader there is none to tell; the exit code is the same.
        let _ = writeln!(output, "{line}");
    }
    ExitCode::FAILURE
}

fn run(arguments: &[OsString]) -> Result<(), WalkError> {
    let [destination, id] = arguments else {
        return Err(WalkError::Write(io::Error::other("a destination and an id are needed")));
    };
    let id = id.to_str().and_then(|id| Uuid::parse_str(id).ok());
    let id = id.ok_or_else(|| WalkError::Write(io::Error::other("the id is no UUID")))?;
    for (resource, most) in [
        (Resource::RLIMIT_DATA, data_bytes().saturating_add(MOST_MEMORY_BYTES)),
        (Resource::RLIMIT_CPU, MOST_CPU_SECONDS),
        (Resource::RLIMIT_FSIZE, MOST_BYTES),
        (Resource::RLIMIT_NOFILE, MOST_OPEN_FILES),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, most, most).map_err(|error| WalkError::Write(error.into()))?;
    }
    umask(Mode::from_bits_truncate(0o022));
    unpack(io::stdin().lock(), Path::new(destination), id)
}

/// What the kernel counts towards the limit of data now.
fn data_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {

    use std::os::unix::fs::PermissionsExt as _;

    use super::super::tests::{Made, Scratch};
    use super::*;

    /// What a program that is a shell script, called with `unpack-package DESTINATION UUID`, makes of an archive; and
    /// what is then beside the destination.
    fn unpacked_by(script: &str, until: Duration) -> (Result<(), UnpackError>, Vec<String>) {
        let scratch = Scratch::new();
        let program = scratch.0.join("program");
        fs::write(&program, format!("#!/bin/sh\nmkdir \"$2.partial-$3\"\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let packages = scratch.0.join("packages");
        fs::create_dir(&packages).unwrap();
        fs::write(scratch.0.join("archive"), Made::new().archive()).unwrap();
        let archive = File::open(scratch.0.join("archive")).unwrap();
        let result = unpack_by(&program, archive, &packages.join("one"), Instant::now() + until);
        let left = fs::read_dir(packages).unwrap();
        (result, left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    #[test]
    fn what_the_process_says_is_believed() {
        let patience = Duration::from_secs(60);
        let (result, left) = unpacked_by("cmp - ../archive 2>&-; mv \"$2.partial-$3\" \"$2\"", patience);
        assert!(matches!(result, Ok(())), "{result:?}");
        assert_eq!(left, ["one"]);
        for (script, expected) in [
            (
                "echo '{\"problem\":{\"file\":\"a\",\"line\":1,\"message\":\"is wrong\"}}'; \
                 echo '{\"problem\":{\"file\":\"b\",\"message\":\"too\"}}'; exit 1",
                "a:1: is wrong\nb: too",
            ),
            ("echo '{\"failed\":\"no space\"}'; exit 1", "cannot unpack the package: no space"),
            ("echo nonsense; exit 101", "ended without a reason (exit status: 101)"),
            ("kill -9 $$", "ended without a reason (signal: 9 (SIGKILL))"),
            ("exec head -c 8000000 /dev/zero", "ended without a reason (signal: 13 (SIGPIPE))"),
        ] {
            let (result, left) = unpacked_by(script, patience);
            let line = result.unwrap_err().to_string();
            assert!(line.ends_with(expected), "{line}");
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[test]
    fn a_process_that_takes_too_long_is_ended() {
        let (result, left) = unpacked_by("exec sleep 1000", Duration::from_millis(300));
        assert!(matches!(result, Err(UnpackError::TimedOut)), "{result:?}");
        assert!(left.is_empty(), "{left:?}");
        let scratch = Scratch::new();
        let archive = File::open("/dev/null").unwrap();
        let result = unpack_by(&scratch.0.join("missing"), archive, &scratch.0.join("one"), Instant::now());
        assert!(matches!(result, Err(UnpackError::Failed(_))), "{result:?}");
    }
}
