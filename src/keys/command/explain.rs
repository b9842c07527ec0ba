//! `cloacinactl keys explain`: what is the matter with a key that comes on stdin.

use std::process::ExitCode;

use super::super::expiry;
use super::super::store::TABLE;
use crate::auth::api_key::{self, KeyHash};
use crate::auth::store::{self, Lookup};
use crate::cli;
use crate::command_error::CommandError;
use crate::database_command::{Load, failed, until};
use crate::store::Store;
use crate::terminal::shown;

// The help text of `keys explain` promises these.
const MALFORMED: u8 = 10;
const MISTYPED: u8 = 11;
const UNKNOWN: u8 = 12;
const REVOKED: u8 = 13;
const EXPIRED: u8 = 14;

pub fn run(settings: Load) -> Result<ExitCode, CommandError> {
    let input = cli::read_stdin("key", api_key::LONGEST as u64 + 3)?;
    let (code, text) = match well_formed(&input) {
        Err((code, text)) => (code, text),
        Ok(key) => {
            let store = Store::to_look(&settings()?, &[TABLE])?;
            let found = store::find(&store, KeyHash::of(key), until()).map_err(failed)?;
            of_row(key, found.as_ref())
        }
    };
    cli::print(&text)?;
    Ok(ExitCode::from(code))
}

/// What people put around a key.
const QUOTES: &[char] =
    &['"', '\'', '`', '\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{ab}', '\u{bb}'];

/// The key on the one line of `input`, or the exit code and the text for what is none.
fn well_formed(input: &[u8]) -> Result<&str, (u8, String)> {
    let ends = input.iter().rev().take_while(|byte| b"\r\n".contains(byte)).count();
    let line = &input[..input.len() - ends];
    let malformed = |what: &str| Err((MALFORMED, format!("malformed: {what}\n")));
    let text = std::str::from_utf8(line).unwrap_or_default();
    let bare = text.trim_matches(QUOTES);
    let key = match std::str::from_utf8(line) {
        _ if line.is_empty() => return malformed("stdin is empty"),
        _ if line.iter().any(|byte| b"\r\n".contains(byte)) => {
            return malformed("stdin has more than one line; a key has no line break in it");
        }
        // A key that its owner chose may have quotes of its own, so those are looked up.
        Ok(_) if bare != text && (api_key::starts_like_ours(bare) || !api_key::can_be_sent(text)) => {
            return malformed("it stands in quotes; remove the quotes");
        }
        Ok(key) if api_key::can_be_sent(key) => key,
        Ok(text) if text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer ")) => {
            return malformed("it is a whole header's value; remove `Bearer ` before the key");
        }
        _ if line.len() > api_key::LONGEST => {
            return malformed(&format!("it has more than {} bytes", api_key::LONGEST));
        }
        _ => return malformed("a key has visible ASCII characters only, and no space"),
    };
    if api_key::looks_like_ours(key) && api_key::is_mistyped(key) {
        let text = "mistyped: its checksum is wrong, so at least one character is not right\n";
        return Err((MISTYPED, text.to_owned()));
    }
    Ok(key)
}

fn of_row(key: &str, found: Option<&Lookup>) -> (u8, String) {
    let Some(Lookup { row, now, .. }) = found else {
        let hint = match api_key::starts_like_ours(key) && !api_key::looks_like_ours(key) {
            true => format!(
                "; it begins like a key of this server, which has {} characters, but has {}: was all of it copied?",
                api_key::LENGTH,
                key.len()
            ),
            false if key.trim_matches(QUOTES) != key => {
                "; it stands in quotes: remove the quotes, unless they are part of it".to_owned()
            }
            false => String::new(),
        };
        return (UNKNOWN, format!("unknown: this database has no such key{hint}\n"));
    };
    let (code, state) = match (row.revoked_at, row.expires_at) {
        (Some(timestamp), _) => (REVOKED, format!("revoked: on {}", expiry::format_rfc3339(timestamp))),
        (None, Some(end)) if end <= *now => (EXPIRED, format!("expired: on {}", expiry::format_rfc3339(end))),
        (None, _) => (0, "valid".to_owned()),
    };
    let expires = row.expires_at.map_or("never".to_owned(), expiry::format_rfc3339);
    let tenant = match (row.tenant, &row.tenant_name) {
        (Some(_), Some(name)) => format!("tenant: {name}\n"),
        (None, _) if !row.is_shut_out => String::new(),
        _ => "tenant: none here (a tenant's key of another server: it opens only /auth/whoami and its own revocation)\n"
            .to_owned(),
    };
    let text = format!(
        "{state}\nid: {}\nname: {}\npermissions: {}\n{tenant}expires: {expires}\n",
        row.id,
        shown(&row.name),
        shown(&row.permissions)
    );
    (code, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_its_end() {
        for input in
            ["my-secret-admin-key-here", "my-secret-admin-key-here\n", "my-secret-admin-key-here\r\n\r\n"]
        {
            assert_eq!(well_formed(input.as_bytes()), Ok("my-secret-admin-key-here"));
        }
        let longest = "x".repeat(api_key::LONGEST);
        assert_eq!(well_formed(longest.as_bytes()), Ok(&*longest));
        for (input, text) in [
            (b"".as_slice(), "malformed: stdin is empty\n"),
            (b"\n", "malformed: stdin is empty\n"),
            (b"a\nb\n", "malformed: stdin has more than one line; a key has no line break in it\n"),
            (b"a\rb", "malformed: stdin has more than one line; a key has no line break in it\n"),
            (b"Bearer x", "malformed: it is a whole header's value; remove `Bearer ` before the key\n"),
            (b"two words", "malformed: a key has visible ASCII characters only, and no space\n"),
            (b"\"clk_x\"\n", "malformed: it stands in quotes; remove the quotes\n"),
            (
                "\u{201c}my-secret-key\u{201d}".as_bytes(),
                "malformed: it stands in quotes; remove the quotes\n",
            ),
            (b"\xff", "malformed: a key has visible ASCII characters only, and no space\n"),
            ("x".repeat(api_key::LONGEST + 1).as_bytes(), "malformed: it has more than 512 bytes\n"),
        ] {
            assert_eq!(well_formed(input), Err((MALFORMED, text.to_owned())));
        }
    }
}
