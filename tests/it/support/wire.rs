//! The wire between a server and PostgreSQL, for tests that cut it or let it go dead: a TCP proxy whose connections
//! can be ended, or held without a word, one by one or all at once.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// Forwards everything until it is told not to.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    connections: Mutex<Vec<Wired>>,
    changed: Condvar,
}

/// A connection through the wire.
struct Wired {
    client: TcpStream,
    database: TcpStream,
    /// The beginning of all that the server has sent.
    sent: Vec<u8>,
    dead: bool,
}

/// Enough to find what a session was made for.
const REMEMBERED: usize = 64 * 1024;

impl Wire {
    pub fn start(upstream: String) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        // The threads end with the sockets, the listener's with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(database) = TcpStream::connect(&upstream) else { continue };
                let _ = client.set_nodelay(true);
                let _ = database.set_nodelay(true);
                let (from_client, from_database) =
                    (client.try_clone().unwrap(), database.try_clone().unwrap());
                let (to_client, to_database) = (client.try_clone().unwrap(), database.try_clone().unwrap());
                let number = {
                    let mut connections = shared.connections.lock().unwrap();
                    connections.push(Wired { client, database, sent: Vec::new(), dead: false });
                    connections.len() - 1
                };
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || up.forward(number, true, from_client, to_database));
                std::thread::spawn(move || down.forward(number, false, from_database, to_client));
            }
        });
        Wire { port, state }
    }

    /// Ends every connection that there is. New ones get through.
    pub fn cut(&self) {
        for wired in self.state.connections.lock().unwrap().iter_mut() {
            let _ = wired.client.shutdown(Shutdown::Both);
            let _ = wired.database.shutdown(Shutdown::Both);
            wired.dead = false;
        }
        self.state.changed.notify_all();
    }

    /// From now on not a byte gets through on the connections whose server has sent this text (all of them, where it
    /// is empty), and nobody is told. How many connections that are. New ones get through.
    pub fn go_dead(&self, sent: &str) -> usize {
        let mut connections = self.state.connections.lock().unwrap();
        let mut count = 0;
        for wired in connections.iter_mut() {
            if sent.is_empty() || wired.sent.windows(sent.len()).any(|window| window == sent.as_bytes()) {
                wired.dead = true;
                count += 1;
            }
        }
        count
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

impl State {
    fn forward(&self, number: usize, up: bool, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count) = from.read(&mut chunk) {
            if count == 0 {
                break;
            }
            let mut connections = self.connections.lock().unwrap();
            if up {
                let sent = &mut connections[number].sent;
                sent.extend_from_slice(&chunk[..count.min(REMEMBERED.saturating_sub(sent.len()))]);
            }
            drop(self.changed.wait_while(connections, |connections| connections[number].dead).unwrap());
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
