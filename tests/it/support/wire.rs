//! The wire between a server and PostgreSQL, for tests that cut it, let it go dead, or slow it down at one statement: a
//! TCP proxy whose connections can be ended, or held without a word, one by one or all at once.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// Forwards everything until it is told not to.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Where new connections lead.
    upstream: Mutex<String>,
    wiring: Mutex<Wiring>,
    changed: Condvar,
}

#[derive(Default)]
struct Wiring {
    connections: Vec<Wired>,
    /// The next connection that executes a statement with this text in it is held from there on.
    watched: Option<String>,
    /// The connection that did.
    held: Option<usize>,
    /// New connections are ended at once.
    refuses: bool,
}

/// A connection through the wire.
struct Wired {
    client: TcpStream,
    database: TcpStream,
    /// The beginning and the end of all that the server has sent.
    sent: Vec<u8>,
    /// What the server sends, and what PostgreSQL answers.
    up: Way,
    down: Way,
}

impl Wired {
    fn way(&mut self, up: bool) -> &mut Way {
        if up { &mut self.up } else { &mut self.down }
    }

    /// Whether one of these messages (PostgreSQL, 55.7) executes a statement with this text in it.
    fn executes(&self, messages: &[u8], text: &str) -> bool {
        let mut rest = messages;
        while let [kind, a, b, c, d, ..] = *rest {
            let end = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
            let body = rest.get(5..end).unwrap_or_default();
            let is_it = match kind {
                b'Q' => find(body, text.as_bytes()).is_some(),
                // The empty name of a portal, then that of the statement.
                b'B' => self
                    .name_of(text)
                    .is_some_and(|name| body.get(1..).is_some_and(|rest| rest.starts_with(name))),
                _ => false,
            };
            if is_it {
                return true;
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        false
    }

    /// What the last Parse message with this text has named its statement, an `s`, a number and a zero byte: one that is
    /// not kept has another name each time.
    fn name_of(&self, text: &str) -> Option<&[u8]> {
        let at = self.sent.windows(text.len()).rposition(|window| window == text.as_bytes())?;
        let before = &self.sent[..at];
        let end = before.iter().rposition(|byte| *byte == 0)?;
        let start = before[..end].iter().rposition(|byte| *byte == b's')?;
        Some(&before[start..=end])
    }
}

#[derive(Default)]
struct Way {
    /// Not a byte gets through.
    shut: bool,
    /// How many times what was read at once gets through all the same.
    exempt: usize,
    /// Bytes have come that wait.
    waits: bool,
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Enough to find what a session was made for, or what it has prepared of late.
const REMEMBERED: usize = 64 * 1024;

impl Wire {
    pub fn start(upstream: String) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { upstream: Mutex::new(upstream), ..State::default() });
        let shared = Arc::clone(&state);
        // The threads end with the sockets, the listener's with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let upstream = shared.upstream.lock().unwrap().clone();
                let Ok(database) = TcpStream::connect(&upstream) else { continue };
                let _ = client.set_nodelay(true);
                let _ = database.set_nodelay(true);
                let (from_client, from_database) =
                    (client.try_clone().unwrap(), database.try_clone().unwrap());
                let (to_client, to_database) = (client.try_clone().unwrap(), database.try_clone().unwrap());
                let number = {
                    let mut wiring = shared.wiring.lock().unwrap();
                    if wiring.refuses {
                        continue;
                    }
                    let (up, down) = (Way::default(), Way::default());
                    wiring.connections.push(Wired { client, database, sent: Vec::new(), up, down });
                    wiring.connections.len() - 1
                };
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || up.forward(number, true, from_client, to_database));
                std::thread::spawn(move || down.forward(number, false, from_database, to_client));
            }
        });
        Wire { port, state }
    }

    /// From now on new connections lead there. Those that there are stay as they are.
    pub fn switch(&self, upstream: String) {
        *self.state.upstream.lock().unwrap() = upstream;
    }

    /// Ends every connection that there is. New ones get through.
    pub fn cut(&self) {
        let mut wiring = self.state.wiring.lock().unwrap();
        wiring.watched = None;
        for wired in &mut wiring.connections {
            let _ = wired.client.shutdown(Shutdown::Both);
            let _ = wired.database.shutdown(Shutdown::Both);
            (wired.up.shut, wired.down.shut) = (false, false);
        }
        self.state.changed.notify_all();
    }

    /// Ends every connection, and each new one. What was held gets lost.
    pub fn cut_for_good(&self) {
        self.state.wiring.lock().unwrap().refuses = true;
        self.cut();
    }

    /// From now on not a byte gets through on the connections whose server has sent this text (all of them, where it
    /// is empty), and nobody is told. How many connections that are. New ones get through.
    pub fn go_dead(&self, sent: &str) -> usize {
        let mut wiring = self.state.wiring.lock().unwrap();
        let mut count = 0;
        for wired in &mut wiring.connections {
            if sent.is_empty() || find(&wired.sent, sent.as_bytes()).is_some() {
                (wired.up.shut, wired.down.shut) = (true, true);
                count += 1;
            }
        }
        count
    }

    /// Holds the next execution of a statement with this text in it, and from there on its whole connection, both
    /// ways. Waits until that has happened.
    #[track_caller]
    pub fn hold(&self, text: &str) {
        self.hold_when(text, || ());
    }

    /// The same, where something has to be done to bring the execution about.
    #[track_caller]
    pub fn hold_when<T>(&self, text: &str, cause: impl FnOnce() -> T) -> T {
        let mut wiring = self.state.wiring.lock().unwrap();
        wiring.watched = Some(text.to_owned());
        drop(wiring);
        let caused = cause();
        self.wait_until(&format!("an execution of {text:?}"), |wiring| wiring.watched.is_none());
        caused
    }

    /// Lets through what the server has sent and sends on the connection that is held. What is answered there stays
    /// held. Waits until there is an answer.
    #[track_caller]
    pub fn let_question_through(&self) {
        let held = self.change_held(|wired| wired.up.shut = false);
        self.wait_until("an answer", |wiring| wiring.connections[held].down.waits);
    }

    /// Lets through the one answer that waits. Whatever follows it stays held.
    pub fn let_answer_through(&self) {
        self.change_held(|wired| wired.down.exempt += 1);
    }

    /// Lets everything through on the connection that is held.
    pub fn let_all_through(&self) {
        self.change_held(|wired| (wired.up.shut, wired.down.shut) = (false, false));
    }

    fn change_held(&self, change: impl FnOnce(&mut Wired)) -> usize {
        let mut wiring = self.state.wiring.lock().unwrap();
        let held = wiring.held.expect("a connection should be held");
        change(&mut wiring.connections[held]);
        self.state.changed.notify_all();
        held
    }

    #[track_caller]
    fn wait_until(&self, what: &str, has_come: impl Fn(&Wiring) -> bool) {
        let wiring = self.state.wiring.lock().unwrap();
        let waiting = self.state.changed.wait_timeout_while(wiring, PATIENCE, |wiring| !has_come(wiring));
        assert!(!waiting.unwrap().1.timed_out(), "waited {PATIENCE:?} in vain for {what}");
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
            let mut wiring = self.wiring.lock().unwrap();
            if up {
                wiring.note(number, &chunk[..count]);
            }
            wiring.connections[number].way(up).waits = true;
            self.changed.notify_all();
            let mut wiring = self
                .changed
                .wait_while(wiring, |wiring| {
                    let way = wiring.connections[number].way(up);
                    way.shut && way.exempt == 0
                })
                .unwrap();
            let way = wiring.connections[number].way(up);
            (way.waits, way.exempt) = (false, way.exempt.saturating_sub(1));
            drop(wiring);
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

impl Wiring {
    /// Remembers what a server has sent, and holds its connection if that is what is watched for.
    fn note(&mut self, number: usize, bytes: &[u8]) {
        let wired = &mut self.connections[number];
        if self.watched.as_deref().is_some_and(|text| wired.executes(bytes, text)) {
            (wired.up.shut, wired.down.shut) = (true, true);
            (self.watched, self.held) = (None, Some(number));
        }
        wired.sent.extend_from_slice(bytes);
        // The session that migrates sends more than both, and works for others afterwards.
        if wired.sent.len() > 4 * REMEMBERED {
            wired.sent.drain(REMEMBERED..wired.sent.len() - REMEMBERED);
        }
    }
}
