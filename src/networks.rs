//! Networks of IP addresses, as `--trusted-proxy` names them. IPv6 addresses that only wrap an IPv4 one count as that.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Addresses and networks (CIDR, RFC 4632), in any number; the default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    /// Its first address.
    base: IpAddr,
    /// Leading bits that an address has in common with `base`, both as IPv6 addresses: at most 128.
    bits: u32,
}

impl Networks {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for Networks {
    type Err = String;

    /// Comma-separated; an empty text is none.
    fn from_str(text: &str) -> Result<Networks, String> {
        if text.trim().is_empty() {
            return Ok(Networks::default());
        }
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Networks)
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.base.is_ipv4() && first_of(address, self.bits) == self.base
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let parsed = || {
            let given: IpAddr = address.parse().ok()?;
            let base = given.to_canonical();
            // What an IPv4 address has before its own bits, as an IPv6 address.
            let wrapping = |address: IpAddr| if address.is_ipv4() { 96 } else { 0 };
            let bits = match bits {
                None => 128,
                Some(bits) => parse_bits(bits)?.checked_add(wrapping(given))?,
            };
            (wrapping(base)..=128).contains(&bits).then(|| (base, bits, bits - wrapping(base)))
        };
        let (base, bits, own_bits) = parsed().ok_or(
            "must be IP addresses or networks with a comma between them, such as 127.0.0.1, 10.0.0.0/8 or fd00::/8",
        )?;
        let first = first_of(base, bits);
        if first == base {
            return Ok(Network { base, bits });
        }
        // 10.1.2.3/8 may mean one host or a network.
        Err(format!("must be a network by its first address; did you mean {first}/{own_bits}?"))
    }
}

/// A number of bits, in digits alone.
fn parse_bits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The first address that has these leading bits in common with this one, both as IPv6 addresses.
fn first_of(address: IpAddr, bits: u32) -> IpAddr {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_their_networks() {
        for (networks, inside, outside) in [
            ("127.0.0.1", ["127.0.0.1", "::ffff:127.0.0.1"].as_slice(), ["127.0.0.2", "::1"].as_slice()),
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"],
                &["11.0.0.0", "9.255.255.255"],
            ),
            ("10.1.2.0/23", &["10.1.2.0", "10.1.3.255"], &["10.1.4.0", "10.1.1.255"]),
            ("::ffff:10.0.0.0/104", &["10.9.9.9"], &["11.0.0.0", "::"]),
            ("0.0.0.0/0", &["8.8.8.8", "::ffff:8.8.8.8"], &["::1"]),
            ("::/0", &["::1", "2001:db8::1"], &["8.8.8.8"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::1"]),
            (
                " 192.0.2.1 , fd00::/8,::1/128",
                &["192.0.2.1", "fdff::1", "::1"],
                &["192.0.2.2", "fc00::1", "::2"],
            ),
            ("", &[], &["127.0.0.1", "::1"]),
        ] {
            let parsed: Networks = networks.parse().unwrap();
            for address in inside {
                assert!(parsed.contains(address.parse().unwrap()), "{address} is in {networks}");
            }
            for address in outside {
                assert!(!parsed.contains(address.parse().unwrap()), "{address} is not in {networks}");
            }
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "localhost",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0 /8",
            "10.0.0.1,",
            ",",
            "::/129",
            "::ffff:10.0.0.0/95",
            "[::1]",
            "127.0.0.1:80",
            "10.0.0.0/-1",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/99999999999",
        ] {
            let line = wrong.parse::<Networks>().expect_err(wrong);
            assert!(line.starts_with("must be IP addresses or networks"), "{wrong}: {line}");
        }
        let line = "10.1.2.3/8".parse::<Networks>().unwrap_err();
        assert!(line.ends_with("did you mean 10.0.0.0/8?"), "{line}");
    }
}
