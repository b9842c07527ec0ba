//! Wakes the thread that waits for the ends of supervisors, by a descriptor that it polls beside theirs.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Makes `Attempts::wait` return. A clone wakes the same thread.
#[derive(Debug, Clone)]
pub struct Wake(Arc<PipeWriter>);

#[derive(Debug)]
pub struct Woken(PipeReader);

/// # Errors
/// There are no descriptors left.
pub fn pair() -> io::Result<(Wake, Woken)> {
    let (reader, writer) = io::pipe()?;
    never_block(&reader)?;
    never_block(&writer)?;
    Ok((Wake(Arc::new(writer)), Woken(reader)))
}

impl Wake {
    pub fn wake(&self) {
        // A full pipe wakes as well.
        let _ = (&*self.0).write(&[0]);
    }
}

impl Woken {
    /// Takes what has been written, so that the next wait begins anew.
    pub fn clear(&mut self) {
        let mut ignored = [0; 512];
        while self.0.read(&mut ignored).is_ok_and(|count| count == ignored.len()) {}
    }
}

impl AsFd for Woken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn never_block(pipe: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
