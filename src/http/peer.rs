//! The half of a connection that the event loop and a worker share: the socket, and whose turn it is to use it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;
use parking_lot::Mutex;

/// A client's socket. At any time either the event loop or one worker may write to it; `Turn` says who.
pub struct Peer {
    /// Non-blocking.
    pub stream: TcpStream,
    pub address: SocketAddr,
    pub token: Token,
    turn: Mutex<Turn>,
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The event loop reads on. The instant is when the last answer was given.
    EventLoop { since: Instant },
    /// A request waits for its answer. `wakes` is set when the client has sent more meanwhile, so that the event loop, which
    /// left it unread, is told when it may go on.
    Worker { stage: Stage, wakes: bool },
    /// A worker writes the answer, or has left word for the event loop that something of it is left to do.
    Writing { wakes: bool },
}

/// How far a request has come that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is in the queue: taken back, it is never carried out.
    Queued,
    /// A worker has begun with it: taken back, it may be carried out all the same.
    Begun,
    /// Its answer waits for something that needs no worker, if need be until this moment; `None`: for as long as answers of
    /// its kind may.
    Parked(Option<Instant>),
}

impl Peer {
    pub fn new(stream: TcpStream, address: SocketAddr, token: Token) -> Peer {
        Peer { stream, address, token, turn: Mutex::new(Turn::EventLoop { since: Instant::now() }) }
    }

    /// The event loop gives the turn away together with a request.
    pub fn hand_over(&self) {
        *self.turn.lock() = Turn::Worker { stage: Stage::Queued, wakes: false };
    }

    /// Since when it is the event loop's turn. `None`: it is not yet, and the event loop will be woken when it is.
    pub fn event_loop_turn(&self) -> Option<Instant> {
        match &mut *self.turn.lock() {
            Turn::EventLoop { since } => Some(*since),
            Turn::Worker { wakes, .. } | Turn::Writing { wakes } => {
                *wakes = true;
                None
            }
        }
    }

    /// The same without asking to be woken.
    pub fn idle_since(&self) -> Option<Instant> {
        match &*self.turn.lock() {
            Turn::EventLoop { since } => Some(*since),
            _ => None,
        }
    }

    /// The event loop takes the turn back from a request whose time is over at its stage: which stage that was.
    pub fn take_back(&self, now: Instant, is_over: impl FnOnce(Stage) -> bool) -> Option<Stage> {
        let mut turn = self.turn.lock();
        match *turn {
            Turn::Worker { stage, .. } if is_over(stage) => {
                *turn = Turn::EventLoop { since: now };
                Some(stage)
            }
            _ => None,
        }
    }

    /// How far the request has come; `None` while there is none that waits for its answer.
    pub fn stage(&self) -> Option<Stage> {
        match *self.turn.lock() {
            Turn::Worker { stage, .. } => Some(stage),
            _ => None,
        }
    }

    /// A worker begins with the request. `false`: the event loop has answered it, so it must not be carried out.
    pub fn begin(&self) -> bool {
        self.move_to(Stage::Begun)
    }

    /// The answer waits. `false`: the event loop has answered in the worker's stead.
    pub fn park(&self, until: Option<Instant>) -> bool {
        self.move_to(Stage::Parked(until))
    }

    fn move_to(&self, next: Stage) -> bool {
        match &mut *self.turn.lock() {
            Turn::Worker { stage, .. } => {
                *stage = next;
                true
            }
            _ => false,
        }
    }

    /// A worker that has the answer asks for the right to write it. `false`: the event loop has answered in its stead.
    pub fn claim(&self) -> bool {
        let mut turn = self.turn.lock();
        match *turn {
            Turn::Worker { wakes, .. } => {
                *turn = Turn::Writing { wakes };
                true
            }
            _ => false,
        }
    }

    /// It is the event loop's turn again: an answer is written, or the event loop goes on with what a worker has left of it. `true`:
    /// the event loop waits to be woken.
    pub fn release(&self, now: Instant) -> bool {
        let mut turn = self.turn.lock();
        let wakes = matches!(*turn, Turn::Writing { wakes: true });
        *turn = Turn::EventLoop { since: now };
        wakes
    }

    /// Writes what the socket takes at once: how many bytes that was.
    ///
    /// # Errors
    /// The client is gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match (&self.stream).write(&bytes[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}
