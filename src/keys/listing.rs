//! Pages of the listing: what the query asks for, and the rows as JSON.

use time::OffsetDateTime;
use uuid::Uuid;

use super::expiry;
use crate::auth::store::KeyRow;
use crate::error::Error;
use crate::paging::{Page, given};

/// What `GET /auth/keys` was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListQuery {
    pub page: Page,
    pub with_revoked: bool,
}

impl ListQuery {
    /// Reads the parameters; others than ours are ignored.
    ///
    /// # Errors
    /// As `Page::from_query`.
    pub fn read(query: Option<&str>) -> Result<ListQuery, Error> {
        let page = Page::from_query(query)?;
        let with_revoked = match given(query, "revoked", "true or false")? {
            Some((value, wrong)) => value.parse().map_err(|_| wrong)?,
            None => true,
        };
        Ok(ListQuery { page, with_revoked })
    }

    /// The path and query of the page that begins after `next`.
    pub fn target_of_next(&self, path: &str, next: &str, others: &[(&str, &str)]) -> String {
        let revoked: &[_] = if self.with_revoked { &[] } else { &[("revoked", "false")] };
        self.page.target_of_next(path, next, &[others, revoked].concat())
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
    match &row.tenant_name {
        None => out.extend_from_slice(b",\"tenant\":null}"),
        Some(name) => {
            out.extend_from_slice(b",\"tenant\":\"");
            // Has nothing that JSON would escape.
            out.extend_from_slice(name.as_ref().as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
            tenant: None,
            tenant_name: None,
            is_shut_out: false,
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
             \"prefix\":null,\"expires_at\":null,\"last_used_at\":\"1970-01-01T00:00:01+00:00\",\"tenant\":null}"
        );
        let row =
            KeyRow { revoked_at: Some(OffsetDateTime::UNIX_EPOCH), prefix: Some("clk_AAAAAAAA"), ..row };
        let revoked: serde_json::Value = serde_json::from_str(&json(&row)).unwrap();
        assert_eq!((&revoked["revoked"], &revoked["prefix"]), (&true.into(), &"clk_AAAAAAAA".into()));
    }

    #[test]
    fn queries() {
        let page = Page::from_query(None).unwrap();
        assert_eq!(ListQuery::read(None).unwrap(), ListQuery { page, with_revoked: true });
        let query = ListQuery::read(Some("limit=7&revoked=false")).unwrap();
        assert_eq!(
            query.target_of_next("/auth/keys", "0a", &[]),
            "/auth/keys?limit=7&after=0a&revoked=false"
        );
        assert_eq!(
            ListQuery::read(Some("revoked=true")).unwrap().target_of_next("/auth/keys", "0a", &[]),
            "/auth/keys?limit=1000&after=0a"
        );
        for bad in ["revoked=", "revoked=FALSE", "revoked=1", "revoked=true&revoked=true", "limit=0"] {
            let Err(Error::Malformed(line)) = ListQuery::read(Some(bad)) else {
                panic!("{bad} should be refused")
            };
            let name = bad.split('=').next().unwrap();
            assert!(line.starts_with(&format!("{name}: ")), "{bad}: {line}");
        }
    }
}
