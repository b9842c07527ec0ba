//! The password of a tenant's role. PostgreSQL gets what it checks one against, never the password itself, so that no
//! log of statements has it.

use std::fmt;
use std::io;

use postgres_protocol::password::scram_sha_256;
use unicode_normalization::is_nfkc;

const GENERATED_CHARACTERS: usize = 32;
const MOST_CHARACTERS: usize = 128;
const LETTERS_AND_DIGITS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A whole password. Only `reveal` gives it away.
pub struct Password(String);

impl Password {
    /// Letters and digits, each as likely as any other.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn generate() -> io::Result<Password> {
        // A byte from here on would make the first letters likelier.
        const END: u8 = (256 / LETTERS_AND_DIGITS.len() * LETTERS_AND_DIGITS.len()) as u8;
        let mut password = String::with_capacity(GENERATED_CHARACTERS);
        while password.len() < GENERATED_CHARACTERS {
            let mut random = [0; GENERATED_CHARACTERS];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let usable = random.into_iter().filter(|byte| *byte < END);
            let letters = usable.map(|byte| LETTERS_AND_DIGITS[usize::from(byte) % LETTERS_AND_DIGITS.len()]);
            password.extend(letters.map(char::from).take(GENERATED_CHARACTERS - password.len()));
        }
        Ok(Password(password))
    }

    /// A password that was chosen: 1 to 128 characters, none of them a control character, in Unicode's form NFKC.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn from_text(text: &str) -> Result<Password, &'static str> {
        let is_long_enough = (1..=MOST_CHARACTERS).contains(&text.chars().count());
        if !is_long_enough || text.contains(char::is_control) {
            return Err("must have 1 to 128 characters, none of them a control character");
        }
        if !is_read_alike(text) {
            return Err(
                "has characters that programs read differently when they log in; write it in Unicode's form NFKC",
            );
        }
        Ok(Password(text.to_owned()))
    }

    /// The password itself: for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What PostgreSQL stores: `SCRAM-SHA-256$4096:…`, with a salt of its own each time and no quote in it.
    pub fn verifier(&self) -> String {
        scram_sha_256(self.0.as_bytes())
    }
}

/// Whether all programs make the same of it when they log in: it is what SASLprep would make of it (RFC 4013), so it
/// does not matter whether a program does that, which libpq and others do for different texts.
fn is_read_alike(text: &str) -> bool {
    // Unlike other spaces, two of these are not what NFKC would put in their place; the rest is left out.
    let is_mapped = |character| {
        matches!(character, '\u{1680}' | '\u{ad}' | '\u{34f}' | '\u{1806}' | '\u{180b}'..='\u{180d}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
    };
    is_nfkc(text) && !text.contains(is_mapped)
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}
