//! A TCP proxy between the server and PostgreSQL that can hold back an answer: it makes "while a lookup is under way"
//! a place where a test can stand.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// Forwards everything, but for the connection on which the watched-for bytes pass first: what PostgreSQL answers
/// there waits until it is released.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    hold: Mutex<Hold>,
    changed: Condvar,
}

#[derive(Default)]
struct Hold {
    watched: Option<Vec<u8>>,
    /// The connection that the watched-for bytes came by.
    caught: Option<usize>,
    /// PostgreSQL has answered there, and the answer waits.
    answered: bool,
}

impl Proxy {
    pub fn start(upstream: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        // The threads end with the sockets, the listener's with the process.
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let Ok(database) = TcpStream::connect(&upstream) else { continue };
                let (to_client, to_database) = (client.try_clone().unwrap(), database.try_clone().unwrap());
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || forward(client, to_database, |bytes| up.sent(number, bytes)));
                std::thread::spawn(move || forward(database, to_client, |_| down.answered(number)));
            }
        });
        Proxy { port, state }
    }

    /// From now on, holds the answer to the first message with these bytes in it.
    pub fn hold_answer_to(&self, bytes: &str) {
        let watched = Some(bytes.as_bytes().to_vec());
        *self.state.hold.lock().unwrap() = Hold { watched, ..Hold::default() };
    }

    /// Waits until PostgreSQL has answered what is being watched for.
    pub fn wait_for_answer(&self) {
        let hold = self.state.hold.lock().unwrap();
        let (hold, _) = self.state.changed.wait_timeout_while(hold, PATIENCE, |hold| !hold.answered).unwrap();
        assert!(hold.answered, "the server sent no such query within {PATIENCE:?}");
    }

    pub fn release(&self) {
        *self.state.hold.lock().unwrap() = Hold::default();
        self.state.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
    }
}

impl State {
    fn sent(&self, connection: usize, bytes: &[u8]) {
        let mut hold = self.hold.lock().unwrap();
        let Some(watched) = &hold.watched else { return };
        if bytes.windows(watched.len()).any(|window| window == watched) && hold.caught.is_none() {
            hold.caught = Some(connection);
        }
    }

    fn answered(&self, connection: usize) {
        let mut hold = self.hold.lock().unwrap();
        if hold.caught != Some(connection) {
            return;
        }
        hold.answered = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(hold, |hold| hold.caught == Some(connection)).unwrap());
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8])) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 {
            break;
        }
        look(&chunk[..count]);
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
