//! Answers that are ready and may not be given yet: each holds its connection, and no thread.

use std::sync::Arc;

use super::peer::Peer;
use super::reply::{Asked, Reply};
use super::workers::{self, Shop};

/// An answer that waits. Dropped, it is lost, and the gate answers at the request's own deadline; so it does
/// where this takes too long, and what is completed later is lost.
pub struct Parked {
    shop: Arc<Shop>,
    peer: Arc<Peer>,
    asked: Asked,
    reply: Reply,
}

impl Parked {
    /// Hands an answer to the one it waits for, unless the gate has answered in the worker's stead.
    pub fn park(shop: &Arc<Shop>, peer: Arc<Peer>, asked: Asked, mut reply: Reply) {
        let Some(park) = reply.park.take() else { return };
        if peer.park() {
            (park.0)(Parked { shop: Arc::clone(shop), peer, asked, reply });
        }
    }

    /// Gives the answer.
    pub fn complete(self, out: &mut Vec<u8>) {
        workers::send(&self.shop, &self.peer, &self.asked, self.reply, out);
    }
}
