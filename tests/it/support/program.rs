//! `cloacinactl` as a process: with arguments, an environment that holds nothing else, and a deadline.

use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::PATIENCE;

/// The program under test: the one that cargo built, or another build of it that `CLOACINACTL_BIN` names.
pub fn binary() -> PathBuf {
    std::env::var_os("CLOACINACTL_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cloacinactl")), PathBuf::from)
}

/// A process that was started, both of its outputs drained and kept.
pub struct Process {
    pub child: Child,
    pub stdout: Kept,
    pub stderr: Kept,
}

/// A process that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What it says on stderr that is not a log line: the line with which it gives up is its last.
    pub fn last_words(&self) -> &str {
        self.stderr.trim_end().lines().last().unwrap_or_default()
    }

    /// Asserts the exit code; the outputs explain a failure.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Ended {
        assert_eq!(self.status.code(), Some(code), "exit code of {self:#?}");
        assert!(!self.stderr.contains("panicked at"), "{self:#?}");
        self
    }
}

impl Process {
    /// Starts it with a closed standard input.
    pub fn start(mut command: Command) -> Process {
        command.stdin(Stdio::null());
        Process::start_with_stdin(command)
    }

    /// Starts it with the standard input that the command has.
    pub fn start_with_stdin(mut command: Command) -> Process {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start_as_it_is(command)
    }

    /// Starts it with the outputs that the command has; those that are not pipes to us count as empty.
    pub fn start_as_it_is(mut command: Command) -> Process {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let stdout = child.stdout.take().map_or_else(|| Kept::drain(std::io::empty()), Kept::drain);
        let stderr = child.stderr.take().map_or_else(|| Kept::drain(std::io::empty()), Kept::drain);
        Process { child, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        send_signal(signal, &self.pid().to_string());
    }

    /// A child that has not been waited for: its id is its own, also after its end.
    pub fn signal_if_running(&mut self, signal: &str) {
        if self.is_running() {
            self.signal(signal);
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {PATIENCE:?}\nstdout: {}\nstderr: {}",
                self.stdout.text(),
                self.stderr.text()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        Ended { status, stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `kill` is a builtin of every shell, and a package of its own on some systems. A `-` before the id means the
/// group.
pub fn send_signal(signal: &str, pid: &str) {
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\"", signal, pid]).status().unwrap();
    assert!(status.success(), "kill -s {signal} -- {pid}: {status}");
}

/// The processes that this one started, those of them that are still its own.
pub fn children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The fourth field is the parent; the second is in parentheses and may hold anything.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(&pid.to_string()) {
            children.push(child);
        }
    }
    children
}

/// A full pipe that is not read, unless the test reads it.
pub struct FullPipe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl FullPipe {
    pub fn new() -> FullPipe {
        let (reader, mut writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        FullPipe { reader, writer }
    }

    /// For an output of a process.
    pub fn end(&self) -> Stdio {
        self.writer.try_clone().unwrap().into()
    }

    /// Reads all, from now until the process has ended.
    pub fn read(self) -> Kept {
        Kept::drain(self.reader)
    }
}

/// What a process printed so far, read by a thread so that it never waits for us.
#[derive(Clone)]
pub struct Kept(Arc<Output>);

struct Output {
    printed: Mutex<Printed>,
    more: Condvar,
    reader: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Printed {
    bytes: Vec<u8>,
    ended: bool,
}

impl Kept {
    fn drain(mut pipe: impl Read + Send + 'static) -> Kept {
        let output =
            Arc::new(Output { printed: Mutex::default(), more: Condvar::new(), reader: Mutex::new(None) });
        let kept = Kept(Arc::clone(&output));
        let reader = std::thread::spawn({
            let output = Arc::clone(&output);
            move || {
                let mut chunk = [0; 4096];
                loop {
                    let count = pipe.read(&mut chunk).unwrap_or(0);
                    let mut printed = output.printed.lock().unwrap();
                    printed.bytes.extend_from_slice(&chunk[..count]);
                    printed.ended = count == 0;
                    output.more.notify_all();
                    if count == 0 {
                        return;
                    }
                }
            }
        });
        *output.reader.lock().unwrap() = Some(reader);
        kept
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.printed.lock().unwrap().bytes).into_owned()
    }

    /// All of it, once the process has ended.
    pub fn whole(&self) -> String {
        if let Some(reader) = self.0.reader.lock().unwrap().take() {
            reader.join().unwrap();
        }
        self.text()
    }

    /// Waits until `find` finds what it looks for. `None` when the output ended, or the deadline passed, without.
    pub fn wait<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut printed = self.0.printed.lock().unwrap();
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&printed.bytes)) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                return None;
            }
            printed = self.0.more.wait_timeout(printed, left).unwrap().0;
        }
    }
}

/// `cloacinactl ARGUMENTS` with an empty environment.
pub fn cloacinactl(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().args(arguments.into_iter().map(Into::into));
    command
}
