//! An answer whose body comes piece by piece, at the client's pace: each piece has the deadline of a whole answer.

use std::time::Instant;

use super::{Connection, ConnectionContext, Phase};
use crate::http::download::Download;

impl Connection {
    /// Asks for the next piece, now that the client has taken the last one.
    pub(super) fn fetch(&mut self, context: &ConnectionContext, download: Download) {
        self.phase = Phase::Fetching(Instant::now());
        context.downloads.fetch(self.peer.token, download);
    }

    /// The next piece is there. `false`: it cannot be had, and all that is left to tell the client so is to end the
    /// connection before the length that was promised.
    pub(super) fn fetched(&mut self, fetched: Result<(Vec<u8>, Download), String>) -> bool {
        match fetched {
            Ok((piece, download)) => {
                self.output = piece;
                self.download = Some(download).filter(|download| download.length() > 0);
                self.phase = Phase::Writing(Instant::now());
                true
            }
            Err(cause) => {
                log::warn!("cannot go on with a download, whose connection is ended: {cause}");
                false
            }
        }
    }
}
