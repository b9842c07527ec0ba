//! The secrets of a task come as one line of JSON on the supervisor's standard input, and are in no file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::signals::Signals;
use crate::engine::attempt::End;

/// 512 KiB of values, each byte an escape, and names.
const MOST_BYTES: usize = 4 << 20;

/// Waits for the line.
///
/// # Errors
/// How the attempt ends, if it ends with this.
pub fn read(signals: &Signals) -> Result<BTreeMap<String, String>, End> {
    let failed = |why: String| End::Failed(format!("cannot read the secrets: {why}"));
    let mut line = Vec::new();
    let mut stdin = io::stdin().lock();
    // Not through `stdin`'s own buffer, which would keep a copy; nothing but the line comes there.
    let mut buffer = vec![0; 64 << 10];
    // What comes behind the line means nothing.
    let end = loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        let mut polled =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let polled = poll(&mut polled, PollTimeout::NONE);
        if signals.take().is_cancelled {
            return Err(End::Cancelled);
        }
        if polled.is_err() {
            continue;
        }
        match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error.to_string())),
            Ok(0) => return Err(failed("the parent ended before it had sent them".to_owned())),
            Ok(count) => line.extend_from_slice(&buffer[..count]),
        }
        if line.len() > MOST_BYTES {
            return Err(failed(format!("they are longer than {MOST_BYTES} bytes")));
        }
    };
    // serde's words would quote a value.
    serde_json::from_slice(&line[..end]).map_err(|_| failed("they are no JSON object of strings".to_owned()))
}

/// Lets go of standard input: what reads it afterwards finds nothing.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn close_stdin() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?)
}
