//! Who asks, when a proxy has handed the request on: `X-Forwarded-For`, believed as far as the proxies before us are.

use std::net::{IpAddr, SocketAddr};

use crate::networks::Networks;

/// The client of a request. Every proxy appends the address that it was asked from, so the list is read from its end
/// for as long as the address that vouches for the next one is a trusted proxy; the rest may be invented.
pub fn client(peer: IpAddr, forwarded_for: Option<&str>, trusted: &Networks) -> IpAddr {
    let mut client = peer.to_canonical();
    for element in forwarded_for.unwrap_or_default().rsplit(',') {
        if !trusted.contains(client) {
            break;
        }
        let Some(address) = address(element.trim_matches([' ', '\t'])) else { break };
        client = address;
    }
    client
}

/// An address; some proxies add the port.
fn address(element: &str) -> Option<IpAddr> {
    let with_port = || element.parse::<SocketAddr>().map(|address| address.ip());
    element.parse().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_ends_at_the_first_that_is_not_trusted() {
        let trusted: Networks = "127.0.0.1,10.0.0.0/8,fd00::/8".parse().unwrap();
        let walked = |peer: &str, list| client(peer.parse().unwrap(), list, &trusted).to_string();
        for (peer, list, expected) in [
            ("127.0.0.1", None, "127.0.0.1"),
            ("127.0.0.1", Some(""), "127.0.0.1"),
            ("127.0.0.1", Some("192.0.2.1"), "192.0.2.1"),
            // A peer that is no proxy says what it likes.
            ("192.0.2.9", Some("192.0.2.1"), "192.0.2.9"),
            ("192.0.2.9", Some("10.0.0.1"), "192.0.2.9"),
            // The client's own inventions stand left of what the proxy saw.
            ("127.0.0.1", Some("198.51.100.7, 192.0.2.1"), "192.0.2.1"),
            ("127.0.0.1", Some("198.51.100.7,192.0.2.1,10.0.0.1,10.0.0.2"), "192.0.2.1"),
            ("127.0.0.1", Some("198.51.100.7, 192.0.2.1 ,\tfd00::1"), "192.0.2.1"),
            // All are ours: the first of them.
            ("127.0.0.1", Some("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
            // Malformed: the last address that a trusted proxy has named.
            ("127.0.0.1", Some("192.0.2.1, unknown"), "127.0.0.1"),
            ("127.0.0.1", Some("192.0.2.1, unknown, 10.0.0.1"), "10.0.0.1"),
            ("127.0.0.1", Some("192.0.2.1,,10.0.0.1"), "10.0.0.1"),
            ("127.0.0.1", Some("192.0.2.1,"), "127.0.0.1"),
            ("127.0.0.1", Some("192.0.2.1 10.0.0.1"), "127.0.0.1"),
            ("127.0.0.1", Some("\"192.0.2.1\""), "127.0.0.1"),
            ("127.0.0.1", Some("192.0.2.01"), "127.0.0.1"),
            ("127.0.0.1", Some("192.0.2.1\u{fffd}"), "127.0.0.1"),
            // Every way to write an address.
            ("::ffff:127.0.0.1", Some("::ffff:192.0.2.1"), "192.0.2.1"),
            ("::ffff:192.0.2.9", None, "192.0.2.9"),
            ("fd00::1", Some("2001:DB8:0::1"), "2001:db8::1"),
            ("127.0.0.1", Some("192.0.2.1:51000, 10.0.0.1:443"), "192.0.2.1"),
            ("127.0.0.1", Some("[2001:db8::1]:51000"), "2001:db8::1"),
        ] {
            assert_eq!(walked(peer, list), expected, "{peer} {list:?}");
        }
        let nobody = Networks::default();
        assert_eq!(client([127, 0, 0, 1].into(), Some("192.0.2.1"), &nobody).to_string(), "127.0.0.1");
    }
}
