//! A key's form: made, recognised, hashed. Plaintext and hash are two types, and neither shows itself in a log.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "clk_";
const RANDOM_BYTES: usize = 32;
/// Base64url of `RANDOM_BYTES` without padding.
const RANDOM_CHARACTERS: usize = 43;
const CHECKSUM_CHARACTERS: usize = 6;
/// Characters of a key of ours.
pub const LENGTH: usize = PREFIX.len() + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS;
/// First characters that are stored, for people to recognise a key by.
const SHOWN_CHARACTERS: usize = 12;
/// How long a key may be that its owner chose.
const CHOSEN_CHARACTERS: std::ops::RangeInclusive<usize> = 16..=256;
/// Longest key that is looked up, in bytes. Ours have 53, chosen ones up to 256.
pub const LONGEST: usize = 512;
/// Digits of the checksum, in the order of ASCII.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A whole key. Only `reveal` gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext(String);

/// Lowercase hex SHA-256 of a whole key, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 64]);

impl Plaintext {
    /// `clk_`, 32 bytes from the system in base64url, and the checksum of all that: 53 characters.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn generate() -> io::Result<Plaintext> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Plaintext::from_random(&random))
    }

    fn from_random(random: &[u8; RANDOM_BYTES]) -> Plaintext {
        let mut key = String::with_capacity(LENGTH);
        key.push_str(PREFIX);
        BASE64_URL_SAFE_NO_PAD.encode_string(random, &mut key);
        key.push_str(&checksum(&key));
        Plaintext(key)
    }

    /// A key that its owner chose: 16 to 256 visible ASCII characters, and if it looks like one of ours, without a
    /// typing error.
    ///
    /// # Errors
    /// What is wrong with it, without the key.
    pub fn chosen(key: &str) -> Result<Plaintext, &'static str> {
        if !CHOSEN_CHARACTERS.contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it must have 16 to 256 visible ASCII characters and no space");
        }
        if looks_like_ours(key) && is_mistyped(key) {
            return Err(
                "it looks like a generated key, but its checksum is wrong: it was mistyped or cut short",
            );
        }
        Ok(Plaintext(key.to_owned()))
    }

    /// The key itself: for the one answer, or the one file, that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    /// What is stored for people to recognise the key by. At most 12 characters, and of a short key that its owner
    /// chose no more than a quarter.
    pub fn shown(&self) -> &str {
        let count =
            if looks_like_ours(&self.0) { SHOWN_CHARACTERS } else { SHOWN_CHARACTERS.min(self.0.len() / 4) };
        &self.0[..count]
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Plaintext(…)")
    }
}

impl KeyHash {
    pub fn of(key: &str) -> KeyHash {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(Sha256::digest(key.as_bytes())) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        KeyHash(hex)
    }

    /// A hash that was made elsewhere; `None` for what is not 64 hex digits, in either case.
    pub fn from_hex(text: &str) -> Option<KeyHash> {
        let digits = <[u8; 64]>::try_from(text.as_bytes()).ok()?;
        digits
            .iter()
            .all(u8::is_ascii_hexdigit)
            .then(|| KeyHash(digits.map(|digit| digit.to_ascii_lowercase())))
    }

    pub fn as_str(&self) -> &str {
        // Hex digits are UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyHash(…)")
    }
}

/// Whether a header field can bring this key, so that it is worth looking up: visible ASCII, not too long.
pub fn can_be_sent(key: &str) -> bool {
    !key.is_empty() && key.len() <= LONGEST && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Our prefix, whatever follows.
pub fn starts_like_ours(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Our prefix and our length: then the checksum has to hold.
pub fn looks_like_ours(key: &str) -> bool {
    key.len() == LENGTH && starts_like_ours(key)
}

/// Whether a key that looks like ours has a checksum that is not its own.
pub fn is_mistyped(key: &str) -> bool {
    match key.split_at_checked(key.len().saturating_sub(CHECKSUM_CHARACTERS)) {
        Some((body, sum)) => checksum(body) != sum,
        None => true,
    }
}

/// CRC-32 (IEEE) in base62, most significant digit first, zero-padded.
fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits.map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_key() {
        let key = Plaintext::from_random(&std::array::from_fn(|index| index as u8));
        // Base64url and CRC-32 (0x9ca448d5) by another implementation.
        assert_eq!(key.reveal(), "clk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh82rqs2H");
        assert_eq!(key.reveal().len(), LENGTH);
        assert!(!is_mistyped(key.reveal()));
        assert_eq!(key.shown(), "clk_AAECAwQF");
    }

    /// None of them is the same in fifty keys, but for one time in 10^88.
    #[test]
    fn every_character_is_random() {
        let keys: Vec<_> = (0..50).map(|_| Plaintext::generate().unwrap()).collect();
        for at in PREFIX.len()..LENGTH - CHECKSUM_CHARACTERS {
            let first = keys[0].reveal().as_bytes()[at];
            assert!(keys.iter().any(|key| key.reveal().as_bytes()[at] != first), "character {at}");
        }
    }

    #[test]
    fn checksums_are_padded() {
        // CRC-32's check value for this text is 0xcbf43926.
        assert_eq!(checksum("123456789"), "3jZRME");
        assert_eq!(checksum(""), "000000");
    }

    #[test]
    fn one_wrong_character_shows() {
        let key = Plaintext::generate().unwrap();
        for at in PREFIX.len()..LENGTH {
            let mut wrong = key.reveal().as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            assert!(is_mistyped(&String::from_utf8(wrong).unwrap()), "{at}");
        }
    }

    #[test]
    fn chosen_keys() {
        let good = Plaintext::generate().unwrap();
        assert!(Plaintext::chosen(good.reveal()).is_ok());
        assert!(Plaintext::chosen("my-secret-admin-key-here").is_ok());
        assert!(Plaintext::chosen(&"x".repeat(256)).is_ok());
        let mistyped = format!("{}0", &good.reveal()[..LENGTH - 1]);
        let mistyped =
            if is_mistyped(&mistyped) { mistyped } else { format!("{}1", &good.reveal()[..LENGTH - 1]) };
        for bad in [
            "",
            "short",
            &"x".repeat(257),
            "has a space in the middle",
            "caf\u{e9}-caf\u{e9}-caf\u{e9}",
            &mistyped,
        ] {
            assert!(Plaintext::chosen(bad).is_err(), "{bad}");
        }
        assert_eq!(Plaintext::chosen("my-secret-admin-key-here").unwrap().shown(), "my-sec");
    }

    #[test]
    fn hashes_are_lowercase_hex_and_nothing_shows_itself() {
        let hash = KeyHash::of("abc");
        assert_eq!(hash.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(format!("{hash:?}"), "KeyHash(…)");
        assert_eq!(format!("{:?}", Plaintext::generate().unwrap()), "Plaintext(…)");
    }
}
