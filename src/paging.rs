//! Listings page by page (keyset pagination): the query's parameters, a page, and the cursor between two of them.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::count;
use crate::error::Error;
use crate::terminal::start_of;

const LARGEST_PAGE: usize = 1000;
/// 24 November 4714 BC, the first day of PostgreSQL's calendar.
const FIRST_TIMESTAMP: OffsetDateTime = time::macros::datetime!(-4713-11-24 0:00 UTC);

/// What a page was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub limit: usize,
    pub after: Option<Position>,
}

/// Where a page begins: after this row, in the order newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub created_at: OffsetDateTime,
    pub id: Uuid,
}

impl Page {
    /// Reads `limit` and `after`.
    ///
    /// # Errors
    /// 400 that names the parameter, its value, and what would be right.
    pub fn from_query(query: Option<&str>) -> Result<Page, Error> {
        let mut page = Page { limit: LARGEST_PAGE, after: None };
        if let Some((value, wrong)) = given(query, "limit", "a whole number from 1 to 1000")? {
            page.limit = count(&value, 1..=LARGEST_PAGE).map_err(|_| wrong)?;
        }
        if let Some((value, wrong)) = given(query, "after", "the `next` of the page before")? {
            page.after = Some(read_cursor(&value).ok_or(wrong)?);
        }
        Ok(page)
    }

    /// The path and query of the page that begins after `next`, with the listing's other parameters.
    pub fn target_of_next(&self, path: &str, next: &str, others: &[(&str, &str)]) -> String {
        form_urlencoded::Serializer::for_suffix(format!("{path}?"), path.len() + 1)
            .append_pair("limit", &self.limit.to_string())
            .append_pair("after", next)
            .extend_pairs(others)
            .finish()
    }
}

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

/// A parameter that stands in a query, and the error for a value that is not `right`.
///
/// # Errors
/// 400: it stands more than once.
pub fn given(query: Option<&str>, name: &str, right: &str) -> Result<Option<(String, Error)>, Error> {
    match parameter(query, name) {
        None => Ok(None),
        Some(Err(())) => Err(Error::Malformed(format!("{name}: stands more than once in the query"))),
        Some(Ok(value)) => {
            let line = format!("{name}: `{}` is not right: expected {right}", start_of(&value));
            Ok(Some((value, Error::Malformed(line))))
        }
    }
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
    fn the_next_page_has_the_same_parameters() {
        let page = Page { limit: 5, after: None };
        assert_eq!(page.target_of_next("/a", "0b", &[]), "/a?limit=5&after=0b");
        let others = [("revoked", "false"), ("tenant", "*")];
        assert_eq!(
            page.target_of_next("/a/b", "0b", &others),
            "/a/b?limit=5&after=0b&revoked=false&tenant=*"
        );
    }

    #[test]
    fn queries() {
        let whole = Page { limit: 1000, after: None };
        assert_eq!(Page::from_query(None).unwrap(), whole);
        assert_eq!(Page::from_query(Some("")).unwrap(), whole);
        assert_eq!(Page::from_query(Some("x=1&limi=5&x=2")).unwrap(), whole);
        assert_eq!(Page::from_query(Some("limit=1&revoked=x")).unwrap().limit, 1);
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
