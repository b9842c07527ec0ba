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

/// Waits for the line, or for what the attempt ends with instead.
///
/// # Errors
/// The parent ended before it had sent them: nothing is to be started, and the attempt has not been one.
pub fn read(signals: &Signals) -> io::Result<Result<BTreeMap<String, String>, End>> {
    let failed = |why: String| Ok(Err(End::Failed(format!("cannot read the secrets: {why}"))));
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
            return Ok(Err(End::Cancelled));
        }
        if polled.is_err() {
            continue;
        }
        match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return failed(error.to_string()),
            Ok(0) => return Err(io::Error::other("its parent ended before it had sent the secrets")),
            Ok(count) => line.extend_from_slice(&buffer[..count]),
        }
        if line.len() > MOST_BYTES {
            return failed(format!("they are longer than {MOST_BYTES} bytes"));
        }
    };
    // serde's words would quote a value.
    match serde_json::from_slice(&line[..end]) {
        Ok(secrets) => Ok(Ok(secrets)),
        Err(_) => failed("they are no JSON object of strings".to_owned()),
    }
}

/// Lets go of standard input: what reads it afterwards finds nothing.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn close_stdin() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?)
}
