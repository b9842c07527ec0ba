//! Pages of the listing: the query's parameters, the cursor, and the rows as JSON (keyset pagination).

use time::OffsetDateTime;
use uuid::Uuid;

use super::expiry;
use super::store::Position;
use crate::auth::store::KeyRow;
use crate::config::count;
use crate::error::Error;
use crate::terminal::start_of;

const LARGEST_PAGE: usize = 1000;
/// 24 November 4714 BC, the first day of PostgreSQL's calendar.
const FIRST_TIMESTAMP: OffsetDateTime = time::macros::datetime!(-4713-11-24 0:00 UTC);

/// The value of one parameter of a query, decoded; `None` where it does not stand.
///
/// # Errors
/// It stands more than once: which of them counts is not defined.
pub fn parameter(query: Option<&str>, wanted: &str) -> Option<Result<String, ()>> {
    let mut values = pairs(query).filter(|(name, _)| name == wanted);
    let (_, first) = values.next()?;
    Some(if values.next().is_some() { Err(()) } else { Ok(first.into_owned()) })
}

/// Whether a parameter of the query is this one but for the case of its letters.
pub fn is_miswritten(query: Option<&str>, wanted: &str) -> bool {
    pairs(query).any(|(name, _)| name != wanted && name.eq_ignore_ascii_case(wanted))
}

/// What a page was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub limit: usize,
    pub after: Option<Position>,
    pub with_revoked: bool,
}

impl Page {
    /// Reads the parameters; others than ours are ignored.
    ///
    /// # Errors
    /// 400 that names the parameter, its value, and what would be right.
    pub fn from_query(query: Option<&str>) -> Result<Page, Error> {
        let given = |name: &str, right: &'static str| match parameter(query, name) {
            None => Ok(None),
            Some(Err(())) => Err(Error::Malformed(format!("{name}: stands more than once in the query"))),
            Some(Ok(value)) => {
                let line = format!("{name}: `{}` is not right: expected {right}", start_of(&value));
                Ok(Some((value, Error::Malformed(line))))
            }
        };
        let mut page = Page { limit: LARGEST_PAGE, after: None, with_revoked: true };
        if let Some((value, wrong)) = given("limit", "a whole number from 1 to 1000")? {
            page.limit = count(&value, 1..=LARGEST_PAGE).map_err(|_| wrong)?;
        }
        if let Some((value, wrong)) = given("after", "the `next` of the page before")? {
            page.after = Some(read_cursor(&value).ok_or(wrong)?);
        }
        if let Some((value, wrong)) = given("revoked", "true or false")? {
            page.with_revoked = value.parse().map_err(|_| wrong)?;
        }
        Ok(page)
    }

    /// The path and query of the page that begins after `next`.
    pub fn target_of_next(&self, next: &str) -> String {
        let revoked = if self.with_revoked { "" } else { "&revoked=false" };
        format!("/auth/keys?limit={}&after={next}{revoked}", self.limit)
    }
}

/// Appends one key as listings show it: a compact JSON object. A listing has a thousand of them, so what is the same in
/// each is not put together anew.
///
/// # Errors
/// None, as long as memory can be written to.
pub fn write<T: AsRef<str>>(row: &KeyRow<T>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(row.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    out.extend_from_slice(b"\",\"name\":");
    serde_json::to_writer(&mut *out, row.name.as_ref())?;
    out.extend_from_slice(b",\"permissions\":");
    serde_json::to_writer(&mut *out, row.permissions.as_ref())?;
    out.extend_from_slice(b",\"created_at\":");
    write_timestamp(Some(row.created_at), out);
    out.extend_from_slice(if row.revoked_at.is_some() {
        b",\"revoked\":true,\"prefix\":"
    } else {
        b",\"revoked\":false,\"prefix\":"
    });
    serde_json::to_writer(&mut *out, &row.prefix.as_ref().map(AsRef::as_ref))?;
    out.extend_from_slice(b",\"expires_at\":");
    write_timestamp(row.expires_at, out);
    out.extend_from_slice(b",\"last_used_at\":");
    write_timestamp(row.last_used_at, out);
    out.push(b'}');
    Ok(())
}

/// RFC 3339 in UTC, or null. Has nothing that JSON would escape.
fn write_timestamp(timestamp: Option<OffsetDateTime>, out: &mut Vec<u8>) {
    let Some(timestamp) = timestamp else { return out.extend_from_slice(b"null") };
    out.push(b'"');
    match expiry::format_digits(timestamp) {
        Some(digits) => out.extend_from_slice(&digits),
        None => out.extend_from_slice(expiry::format_rfc3339(timestamp).as_bytes()),
    }
    out.push(b'"');
}

/// A position as text that is its own percent-encoding: microseconds since 1970 and the id, both in hex.
pub fn cursor(position: Position) -> String {
    let micros = position.created_at.unix_timestamp_nanos() / 1000;
    // Two's complement, so that moments before 1970 have a text as well; PostgreSQL's fit into 64 bits.
    format!("{:016x}{}", micros as i64, position.id.simple())
}

fn read_cursor(text: &str) -> Option<Position> {
    let (micros, id) = text.split_at_checked(16)?;
    if text.len() != 48 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let micros = u64::from_str_radix(micros, 16).ok()? as i64;
    let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
    // Earlier ones are out of PostgreSQL's range, and no row has one.
    if created_at < FIRST_TIMESTAMP {
        return None;
    }
    Some(Position { created_at, id: Uuid::try_parse(id).ok()? })
}

/// Names and values of a query, decoded (RFC 3986, 2.1, and `+` for a space); what cannot be decoded stays.
fn pairs(query: Option<&str>) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        for micros in [0, 1, -1, 1_795_470_000_123_456_i64] {
            let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap();
            let position = Position { created_at, id: Uuid::from_u128(0xfedc << 100 | 7) };
            assert_eq!(read_cursor(&cursor(position)), Some(position));
        }
    }

    #[test]
    fn a_key_is_one_object() {
        let row = KeyRow {
            id: Uuid::from_u128(0xa1b2),
            name: "two \"words\" caf\u{e9}\\",
            permissions: "admin",
            created_at: OffsetDateTime::UNIX_EPOCH,
            revoked_at: None,
            prefix: None,
            expires_at: None,
            last_used_at: Some(OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND),
            is_tenants: false,
        };
        let json = |row: &KeyRow<&str>| {
            let mut out = Vec::new();
            write(row, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            json(&row),
            "{\"id\":\"00000000-0000-0000-0000-00000000a1b2\",\"name\":\"two \\\"words\\\" caf\u{e9}\\\\\",\
             \"permissions\":\"admin\",\"created_at\":\"1970-01-01T00:00:00+00:00\",\"revoked\":false,\
             \"prefix\":null,\"expires_at\":null,\"last_used_at\":\"1970-01-01T00:00:01+00:00\"}"
        );
        let row =
            KeyRow { revoked_at: Some(OffsetDateTime::UNIX_EPOCH), prefix: Some("clk_AAAAAAAA"), ..row };
        let revoked: serde_json::Value = serde_json::from_str(&json(&row)).unwrap();
        assert_eq!((&revoked["revoked"], &revoked["prefix"]), (&true.into(), &"clk_AAAAAAAA".into()));
    }

    #[test]
    fn queries() {
        let whole = Page { limit: 1000, after: None, with_revoked: true };
        assert_eq!(Page::from_query(None).unwrap(), whole);
        assert_eq!(Page::from_query(Some("")).unwrap(), whole);
        assert_eq!(Page::from_query(Some("x=1&limi=5&x=2")).unwrap(), whole);
        assert_eq!(Page::from_query(Some("limit=1&revoked=false")).unwrap().limit, 1);
        assert_eq!(Page::from_query(Some("%6cimit=%31%30")).unwrap().limit, 10);
        let garbage = "f".repeat(48);
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=",
            "limit",
            "limit=+5",
            "limit=abc",
            "limit=1&limit=1",
            "limit=1.0",
            "limit=18446744073709551617",
            "revoked=",
            "revoked=FALSE",
            "revoked=1",
            "after=",
            "after=x",
            "after=%00",
            "after=\u{e9}",
            "after=0000000000000000",
            &format!("after={}", "F".repeat(48)),
            &format!("after={garbage}0"),
        ] {
            let Err(Error::Malformed(line)) = Page::from_query(Some(bad)) else {
                panic!("{bad} should be refused")
            };
            let name = bad.split('=').next().unwrap();
            assert!(line.starts_with(&format!("{name}: ")), "{bad}: {line}");
        }
    }
}
