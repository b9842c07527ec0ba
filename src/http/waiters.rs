//! Answers that are ready and may not be given yet: each holds its connection, and no thread.

use std::sync::Arc;

use super::peer::Peer;
use super::request::RequestInfo;
use super::response::Response;
use super::worker_pool::{self, ServerContext};

/// An answer that waits. Dropped, it is lost, and the event loop answers at the request's own deadline; so it does
/// where this takes too long, and what is completed later is lost.
pub struct Waiter {
    server: Arc<ServerContext>,
    peer: Arc<Peer>,
    info: RequestInfo,
    response: Response,
}

impl Waiter {
    /// Hands an answer to the one it waits for, unless the event loop has answered in the worker's stead.
    pub fn park(server: &Arc<ServerContext>, peer: Arc<Peer>, info: RequestInfo, mut response: Response) {
        let Some(park) = response.park.take() else { return };
        if peer.park() {
            park(Waiter { server: Arc::clone(server), peer, info, response });
        }
    }

    /// Gives the answer.
    pub fn complete(self) {
        worker_pool::send(&self.server, &self.peer, &self.info, self.response, &mut Vec::new());
    }
}
