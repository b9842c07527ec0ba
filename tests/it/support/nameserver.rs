//! A name server that knows one name, on port 53 of a loopback address of its own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct NameServer {
    pub address: Ipv4Addr,
    zone: Arc<Zone>,
}

struct Zone {
    name: String,
    addresses: Vec<Ipv4Addr>,
    asked_by_udp: AtomicUsize,
    asked_by_tcp: AtomicUsize,
}

/// RFC 1035, 4.2.1: what does not fit is left out, with a mark that says so.
const DATAGRAM: usize = 512;

const TYPE_A: u16 = 1;
/// An answer, and recursion was asked for and is available; then, of such an answer, that it is not whole, and that
/// there is no such name.
const ANSWER: u16 = 0x8180;
const TRUNCATED: u16 = 0x0200;
const NO_SUCH_NAME: u16 = 3;

impl NameServer {
    /// Only root may have that port. The threads end with the process.
    pub fn start(name: &str, addresses: Vec<Ipv4Addr>) -> NameServer {
        let (address, udp, tcp) = (0..100).find_map(|_| free_address()).expect("no port 53 is free");
        let zone = Arc::new(Zone {
            name: name.to_owned(),
            addresses,
            asked_by_udp: AtomicUsize::new(0),
            asked_by_tcp: AtomicUsize::new(0),
        });
        let (by_udp, by_tcp) = (Arc::clone(&zone), Arc::clone(&zone));
        std::thread::spawn(move || by_udp.answer_datagrams(&udp));
        std::thread::spawn(move || by_tcp.answer_streams(&tcp));
        NameServer { address, zone }
    }

    pub fn asked_by_udp(&self) -> usize {
        self.zone.asked_by_udp.load(Ordering::Relaxed)
    }

    pub fn asked_by_tcp(&self) -> usize {
        self.zone.asked_by_tcp.load(Ordering::Relaxed)
    }
}

/// `None` where somebody else has the address that chance chose.
fn free_address() -> Option<(Ipv4Addr, UdpSocket, TcpListener)> {
    let mut random = [0; 3];
    getrandom::fill(&mut random).unwrap();
    let [b, c, d] = random;
    let address = Ipv4Addr::new(127, b, c, d.clamp(1, 254));
    let bound = UdpSocket::bind((address, 53)).and_then(|udp| Ok((udp, TcpListener::bind((address, 53))?)));
    match bound {
        Ok((udp, tcp)) => Some((address, udp, tcp)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => panic!("a name server at {address}: {error}"),
    }
}

impl Zone {
    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut query = [0; DATAGRAM];
        loop {
            let (count, client) = socket.recv_from(&mut query).unwrap();
            self.asked_by_udp.fetch_add(1, Ordering::Relaxed);
            let mut answer = self.answer(&query[..count], 0, &self.addresses);
            if answer.len() > DATAGRAM {
                answer = self.answer(&query[..count], TRUNCATED, &[]);
            }
            socket.send_to(&answer, client).unwrap();
        }
    }

    /// Each message has its length before it (RFC 1035, 4.2.2).
    fn answer_streams(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                self.asked_by_tcp.fetch_add(1, Ordering::Relaxed);
                let answer = self.answer(&query, 0, &self.addresses);
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).unwrap();
            }
        }
    }

    /// The answer to a query of one question (RFC 1035, 4.1): our addresses to the one for IPv4, none to others.
    fn answer(&self, query: &[u8], flags: u16, addresses: &[Ipv4Addr]) -> Vec<u8> {
        let (mut labels, mut at) = (Vec::new(), 12);
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(std::str::from_utf8(&query[at + 1..end]).unwrap());
            at = end;
        }
        let question = &query[12..at + 5];
        let is_known = labels.join(".").eq_ignore_ascii_case(&self.name);
        let wants_ipv4 = u16::from_be_bytes([query[at + 1], query[at + 2]]) == TYPE_A;
        let addresses = if is_known && wants_ipv4 { addresses } else { &[] };
        let flags = ANSWER | flags | if is_known { 0 } else { NO_SUCH_NAME };
        let mut answer = query[..2].to_vec();
        for number in [flags, 1, u16::try_from(addresses.len()).unwrap(), 0, 0] {
            answer.extend(number.to_be_bytes());
        }
        answer.extend(question);
        for address in addresses {
            // The name stands at byte 12; type A, class IN, good for a minute, four bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
        }
        answer
    }
}
