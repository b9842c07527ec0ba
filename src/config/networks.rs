//! Networks of IP addresses, as `--trusted-proxy` names them. IPv6 addresses that only wrap an IPv4 one count as that.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Addresses and networks (CIDR, RFC 4632), in any number; the default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    base: IpAddr,
    /// Leading bits that an address has in common with `base`; at most 32 or 128.
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
        masked(address, self.bits) == Some(self.base)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let wrong = || {
            "must be IP addresses or networks with a comma between them, such as 127.0.0.1, 10.0.0.0/8 or fd00::/8"
                .to_owned()
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let given: IpAddr = address.parse().map_err(|_| wrong())?;
        let base = given.to_canonical();
        let widest = width(base);
        let bits = match bits {
            None => widest,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits
                .parse::<u32>()
                .ok()
                // A wrapped IPv4 address has 96 bits of wrapping before its own.
                .and_then(|bits| bits.checked_sub(width(given) - widest))
                .filter(|bits| *bits <= widest)
                .ok_or_else(wrong)?,
            Some(_) => return Err(wrong()),
        };
        match masked(base, bits) {
            Some(masked) if masked == base => Ok(Network { base, bits }),
            // Whoever writes 10.1.2.3/8 means one host or a network; only they know which.
            Some(masked) => {
                Err(format!("must be a network by its first address; did you mean {masked}/{bits}?"))
            }
            None => Err(wrong()),
        }
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all but its first bits zero; `None` when it has not so many.
fn masked(address: IpAddr, bits: u32) -> Option<IpAddr> {
    let rest = width(address).checked_sub(bits)?;
    Some(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    })
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
