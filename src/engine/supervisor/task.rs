//! A running task: one loop over its output, its end, signals, its parent's end, and the clock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::children::{self, TaskCommand};
use super::mask::Mask;
use super::scratch::Scratch;
use super::secrets;
use super::signals::Signals;
use crate::engine::attempt::{Attempt, End, Spec};
use crate::engine::exec_task::{self, Started};
use crate::engine::log::LogWriter;

/// After the command's end, for what it started to say its last words through the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a pipe holds, unless a task enlarges it.
const READ_BYTES: usize = 64 << 10;

/// What is read at most from a pipe whose writers should be gone.
const MOST_REST_BYTES: usize = 4 << 20;

/// What is taken of what `exec-task` says.
const MOST_REPORT_BYTES: u64 = 4 << 10;

pub struct Task<'a> {
    spec: &'a Spec,
    signals: &'a Signals,
    log: &'a mut LogWriter,
    mask: Option<Mask>,
    masked: Vec<u8>,
    buffer: Vec<u8>,
    command: TaskCommand,
    /// What it prints, until every writer has closed it.
    output: Option<PipeReader>,
    /// What keeps `exec-task` from starting the command; closed without a word by a successful exec.
    report: Option<PipeReader>,
    /// Standard input, whose end is the parent's.
    parent: Option<io::Stdin>,
    scratch: Option<Scratch>,
    /// How the command ended by itself, as long as nothing else has been decided.
    end: Option<End>,
    /// Why it is being ended.
    stopped_for: Option<End>,
    /// When everything that is left is killed.
    kill_at: Option<Instant>,
    times_out_at: Option<Instant>,
}

pub struct Ended {
    pub end: End,
    pub processes_left: usize,
}

impl<'a> Task<'a> {
    /// Starts `exec-task`, which becomes the command.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        attempt: &Attempt,
        spec: &'a Spec,
        secrets: &BTreeMap<String, String>,
        signals: &'a Signals,
        log: &'a mut LogWriter,
    ) -> io::Result<Task<'a>> {
        let parent = if spec.ends_with_parent { Some(io::stdin()) } else { None };
        if parent.is_none() {
            secrets::close_stdin()?;
        }
        let (output, stdout) = io::pipe()?;
        // A task may read its own pipe, and leave nothing there of what it had printed when that was looked at.
        never_block(&output)?;
        let input = File::open(attempt.context_path())?;
        let scratch = match spec.scratch_limit_bytes {
            Some(limit) => Some(Scratch::new(File::open(attempt.task_path())?.into(), limit)),
            None => None,
        };
        let Started { pid, report } =
            exec_task::start(&attempt.spec_path(), secrets, input.as_fd(), stdout.as_fd())
                .map_err(too_long)?;
        // What is read from the pipe ends when the task's processes have closed it.
        drop(stdout);
        Ok(Task {
            spec,
            signals,
            log,
            mask: Mask::new(secrets.values().map(|secret| secret.trim())),
            masked: Vec::new(),
            buffer: vec![0; READ_BYTES],
            command: TaskCommand(pid),
            output: Some(output),
            report: Some(report),
            parent,
            scratch,
            end: None,
            stopped_for: None,
            kill_at: None,
            times_out_at: in_ms(spec.timeout_ms),
        })
    }

    /// Waits for the end, and sees to it that nothing is left.
    pub fn run(mut self) -> Ended {
        while !self.is_over() {
            if let Err(error) = self.wait() {
                self.stop(End::Failed(format!("internal error: cannot wait for the task: {error}")));
                break;
            }
        }
        let end = self.end.clone().or_else(|| self.command.end());
        let explain = |end| match &self.spec.cgroup {
            Some(cgroup) => cgroup.explain(end),
            None => end,
        };
        let (stopped_for, end) = (self.stopped_for.take().map(explain), end.map(explain));
        if let Some(cgroup) = &self.spec.cgroup {
            cgroup.kill();
        }
        let processes_left = children::end_all(Some(self.command), self.signals);
        self.read_the_rest();
        let end = match (self.reported(), stopped_for, end) {
            (Some(why), _, _) => End::Failed(why),
            (None, Some(end), _) | (None, None, Some(end)) => end,
            (None, None, None) => End::Failed("internal error: its end was not seen".to_owned()),
        };
        Ended { end, processes_left }
    }

    fn is_over(&self) -> bool {
        let is_killed = self.kill_at.is_some_and(|at| at <= Instant::now());
        is_killed || self.end.is_some() && self.output.is_none()
    }

    /// Waits for whatever comes next, and does what it asks for.
    fn wait(&mut self) -> io::Result<()> {
        let (read, was_told, is_orphaned) = {
            let pollable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let none = self.signals.as_fd();
            let output = self.output.as_ref().map(|pipe| pipe.as_fd());
            let parent = self.parent.as_ref().map(|stdin| stdin.as_fd());
            let mut polled =
                [pollable(none), pollable(output.unwrap_or(none)), pollable(parent.unwrap_or(none))];
            match poll(&mut polled, self.timeout()) {
                Err(nix::errno::Errno::EINTR) => return Ok(()),
                polled => polled?,
            };
            let came = |at: usize| polled[at].any().unwrap_or(true);
            (output.is_some() && came(1), came(0), parent.is_some() && came(2))
        };
        if read {
            self.read_output();
        }
        if was_told {
            let came = self.signals.take();
            if came.has_child_ended {
                self.look_at_children();
            }
            if came.is_cancelled && self.stopped_for == Some(End::Cancelled) {
                // Told again: without the rest of the grace.
                self.kill_at = Some(Instant::now());
            } else if came.is_cancelled {
                self.stop(End::Cancelled);
            }
        }
        if is_orphaned && self.has_parent_ended() {
            self.parent = None;
            self.stop(End::Cancelled);
        }
        self.look_at_the_clock();
        Ok(())
    }

    /// Until something has to be done even if nothing happens.
    fn timeout(&self) -> PollTimeout {
        let is_running = self.end.is_none();
        let timers = [
            self.kill_at,
            self.times_out_at.filter(|_| is_running && self.stopped_for.is_none()),
            self.scratch.as_ref().map(|scratch| scratch.next_look).filter(|_| is_running),
        ];
        let Some(next) = timers.into_iter().flatten().min() else { return PollTimeout::NONE };
        let left = next.saturating_duration_since(Instant::now());
        // A whole millisecond more, since what is left of one would be rounded off. Long ones are waited for in pieces.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.times_out_at.is_some_and(|at| at <= now) {
            self.stop(End::TimedOut);
        }
        if let Some(scratch) =
            self.scratch.as_mut().filter(|scratch| self.end.is_none() && scratch.next_look <= now)
            && let Err(why) = scratch.step()
        {
            self.stop(End::Failed(why));
            // It would go on writing during the grace.
            self.kill_at = Some(now);
        }
    }

    fn look_at_children(&mut self) {
        children::reap_adopted(self.command);
        if self.end.is_some() {
            return;
        }
        self.end = self.command.end();
        if self.end.is_none() {
            return;
        }
        if self.stopped_for.is_some() {
            // What the command had started has the rest of the grace, if it hears of the end.
            children::terminate_adopted(self.command);
        } else {
            self.kill_at = Some(Instant::now() + LAST_WORDS);
        }
    }

    /// Has it end. The first reason counts; the command's own end comes before any.
    fn stop(&mut self, why: End) {
        if self.end.is_some() && self.stopped_for.is_none() {
            self.kill_at = Some(Instant::now());
        } else if self.stopped_for.is_none() {
            self.stopped_for = Some(why);
            self.kill_at = in_ms(self.spec.grace_ms);
            self.command.terminate();
        }
    }

    fn read_output(&mut self) {
        let Some(pipe) = &mut self.output else { return };
        match pipe.read(&mut self.buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Ok(0) | Err(_) => self.output = None,
            Ok(count) => match &mut self.mask {
                None => self.log.write(&self.buffer[..count]),
                Some(mask) => {
                    self.masked.clear();
                    mask.push(&self.buffer[..count], &mut self.masked);
                    self.log.write(&self.masked);
                }
            },
        }
    }

    /// What is still in the pipe, and what the mask has held back.
    fn read_the_rest(&mut self) {
        for _ in 0..MOST_REST_BYTES / READ_BYTES {
            let Some(pipe) = &self.output else { break };
            let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            if poll(&mut polled, PollTimeout::ZERO) != Ok(1) {
                break;
            }
            self.read_output();
        }
        if let Some(mask) = &mut self.mask {
            self.masked.clear();
            mask.finish(&mut self.masked);
            self.log.write(&self.masked);
        }
    }

    /// What `exec-task` said instead of starting the command.
    fn reported(&mut self) -> Option<String> {
        let report = self.report.take()?;
        // Whatever holds its other end by mistake is not waited for.
        never_block(&report).ok()?;
        let mut text = Vec::new();
        let _ = report.take(MOST_REPORT_BYTES).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// What comes there after the secrets means nothing; its end does.
    fn has_parent_ended(&mut self) -> bool {
        let mut ignored = [0; 64];
        match self.parent.as_mut().map(|stdin| stdin.read(&mut ignored)) {
            Some(Ok(0)) => true,
            Some(Err(error)) => error.kind() != io::ErrorKind::Interrupted,
            Some(Ok(_)) | None => false,
        }
    }
}

/// Of this end alone: the writers' waits as ever.
fn never_block(pipe: &PipeReader) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// None for a time that no clock of this system reaches.
fn in_ms(milliseconds: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_millis(milliseconds))
}

fn too_long(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ArgumentListTooLong => io::Error::other(
            "its arguments and environment are too long together, or one of them is: 128 KiB each are the most",
        ),
        _ => error,
    }
}
