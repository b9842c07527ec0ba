//! Bodies of answers that are too large for memory: a thread gets them piece by piece, each when the client has taken the
//! last one, so that a slow client holds no worker and no session.

use std::io;
use std::sync::Arc;

use mio::Token;

use super::completions::{Completion, Outcome};
use super::worker_pool::ServerContext;
use crate::background::restart_on_panic;
use crate::channel::{Receiver, Sender, channel};

/// What is left to come of a body.
pub struct Download {
    /// Bytes.
    left: u64,
    /// The next piece, which is not empty, or why it cannot be had. Waits with a deadline.
    next: Box<dyn FnMut() -> Result<Vec<u8>, String> + Send>,
}

impl Download {
    /// A body of so many bytes.
    pub fn new(
        length: u64,
        next: impl FnMut() -> Result<Vec<u8>, String> + Send + 'static,
    ) -> Option<Download> {
        (length > 0).then(|| Download { left: length, next: Box::new(next) })
    }

    pub fn length(&self) -> u64 {
        self.left
    }

    /// A piece too many, or too few, must not become a part of the next answer.
    fn fetch(&mut self) -> Result<Vec<u8>, String> {
        let piece = (self.next)()?;
        match self.left.checked_sub(piece.len() as u64) {
            Some(left) if !piece.is_empty() => {
                self.left = left;
                Ok(piece)
            }
            _ => Err(format!("a piece has {} bytes, and {} are left", piece.len(), self.left)),
        }
    }
}

/// Where the event loop asks for pieces.
pub struct Downloads(Sender<(Token, Download)>);

impl Downloads {
    /// Starts the thread that gets them. All downloads take turns.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(server: &Arc<ServerContext>) -> io::Result<Downloads> {
        let (asked, work) = channel();
        let server = Arc::clone(server);
        // Not joined: it ends with the event loop, which ends once no client waits.
        std::thread::Builder::new()
            .name("downloads".to_owned())
            .spawn(move || restart_on_panic(|| run(&work, &server)))?;
        Ok(Downloads(asked))
    }

    /// Has the next piece got. It comes as a completion of the connection with that token.
    pub fn fetch(&self, token: Token, download: Download) {
        let _ = self.0.send((token, download));
    }
}

fn run(asked: &Receiver<(Token, Download)>, server: &ServerContext) {
    while let Ok((token, mut download)) = asked.recv() {
        let fetched = download.fetch().map(|piece| (piece, download));
        server.completions.post(Completion { token, outcome: Outcome::Fetched(fetched) });
    }
}
