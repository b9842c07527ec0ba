//! The supervisor's signals are read from a descriptor, beside everything else that it waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocked signals, which the command's process must let through again.
#[derive(Debug)]
pub struct Signals(SignalFd);

/// What came since the last look.
#[derive(Debug, Default, Clone, Copy)]
pub struct Came {
    pub has_child_ended: bool,
    pub is_cancelled: bool,
}

impl Signals {
    /// From now on no signal ends this process but SIGKILL and its own faults.
    ///
    /// # Errors
    /// None that the system documents, but for a lack of descriptors.
    pub fn block() -> io::Result<Signals> {
        let heeded = Signal::SIGCHLD | Signal::SIGTERM;
        // Those of a terminal mean the parent, which says itself what becomes of its tasks.
        let unheeded = Signal::SIGINT
            | Signal::SIGHUP
            | Signal::SIGQUIT
            | Signal::SIGUSR1
            | Signal::SIGUSR2
            | Signal::SIGALRM
            | Signal::SIGXFSZ
            | Signal::SIGXCPU;
        heeded.thread_block()?;
        unheeded.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&heeded, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The descriptor's number.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Those that came by now. Waits for none.
    pub fn take(&self) -> Came {
        let mut came = Came::default();
        while let Ok(Some(signal)) = self.0.read_signal() {
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGCHLD as i32) {
                came.has_child_ended = true;
            } else {
                came.is_cancelled = true;
            }
        }
        came
    }

    /// Waits for one, and drops it.
    pub fn wait(&self, most: Duration) -> Came {
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polled, PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO));
        self.take()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
