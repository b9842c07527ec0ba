//! What a request asks for: the request target (RFC 9112, 3.2) and the Host field (RFC 9110, 7.2).

use std::net::Ipv6Addr;

use super::error::Error;
use super::head::bad;

/// Bytes of a request target; RFC 9112, 3 recommends at least 8,000 for the whole line.
pub const TARGET_LIMIT: usize = 8 * 1024;

/// A request target in its origin form.
#[derive(Debug)]
pub struct Target {
    /// Path and, after a `?`, the query; never the authority of an absolute-form target. `*` for `OPTIONS *`.
    pub path_and_query: String,
    /// It was `https://…`, which only a connection secured for that host may ask for (RFC 9110, 7.4).
    pub is_https: bool,
}

/// # Errors
/// 414 for one that is too long, 501 for CONNECT, 400 for one that is malformed.
pub fn read(method: &str, target: &str) -> Result<Target, Error> {
    if target.len() > TARGET_LIMIT {
        return Err(Error::UriTooLong);
    }
    if method == "CONNECT" {
        return Err(Error::NotImplemented("CONNECT is not supported"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad("malformed request target: only visible ASCII without '#' may stand in it"));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(Target { path_and_query: target.to_owned(), is_https: false });
    }
    let (is_https, origin_form) = without_authority(target)?;
    let path_end = origin_form.find('?').unwrap_or(origin_form.len());
    let (path, query) = origin_form.split_at(path_end);
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte)) {
        return Err(bad("malformed request target: a character in its path has to be percent-encoded"));
    }
    let path = match (path, method) {
        // An OPTIONS for the whole server in absolute form (RFC 9112, 3.2.4).
        ("", "OPTIONS") if query.is_empty() => "*",
        ("", _) => "/",
        _ => path,
    };
    Ok(Target { path_and_query: format!("{path}{query}"), is_https })
}

/// Takes scheme and authority off an absolute-form target, and says whether the scheme was `https`.
fn without_authority(target: &str) -> Result<(bool, &str), Error> {
    if target.starts_with('/') {
        return Ok((false, target));
    }
    let (scheme, rest) = target.split_once("://").unwrap_or_default();
    let is_https = scheme.eq_ignore_ascii_case("https");
    if !is_https && !scheme.eq_ignore_ascii_case("http") {
        return Err(bad("malformed request target: it starts with '/' or http://"));
    }
    let (authority, origin_form) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !is_host(authority.as_bytes()) {
        return Err(bad("malformed host in the request target"));
    }
    Ok((is_https, origin_form))
}

/// `uri-host [ ":" port ]` (RFC 9110, 7.2). Empty is allowed, a port without a host is not (RFC 9110, 4.2.1).
pub fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    };
    let literal = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let is_name = match literal {
        Some(literal) => is_ip_literal(literal),
        None => is_reg_name(host),
    };
    is_name
        && port.is_none_or(|port| !host.is_empty() && port.len() <= 5 && port.iter().all(u8::is_ascii_digit))
}

/// Unreserved characters and sub-delims (RFC 3986, 2.2 and 2.3).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// `reg-name`, which every IPv4 address is as well (RFC 3986, 3.2.2).
fn is_reg_name(host: &[u8]) -> bool {
    let mut pieces = host.split(|byte| *byte == b'%');
    let first = pieces.next().unwrap_or_default();
    first.iter().copied().all(is_plain)
        && pieces.all(|piece| {
            piece.len() >= 2
                && piece[..2].iter().all(u8::is_ascii_hexdigit)
                && piece[2..].iter().copied().all(is_plain)
        })
}

/// What stands between the brackets of an `IP-literal` (RFC 3986, 3.2.2).
fn is_ip_literal(literal: &[u8]) -> bool {
    if let Some(future) = literal.strip_prefix(b"v").or_else(|| literal.strip_prefix(b"V")) {
        let dot = future.iter().position(|byte| *byte == b'.').unwrap_or(0);
        let (version, address) = future.split_at(dot);
        return dot > 0
            && version.iter().all(u8::is_ascii_hexdigit)
            && address.len() > 1
            && address[1..].iter().all(|byte| is_plain(*byte) || *byte == b':');
    }
    std::str::from_utf8(literal).is_ok_and(|literal| literal.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in [
            "",
            "h",
            "h:",
            "h:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::ffff:192.0.2.1]",
            "[v1.a:b]",
            "a%2Db",
            "xn--bcher-kva.example.",
            "A_b-c~d!e$f&g'h(i)j*k+l,m;n=o",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            ":80",
            ":",
            "a:b",
            "a:123456",
            "a b",
            "a@b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "%zz",
            "a%",
            "a%2",
            "a%2x",
            "[]",
            "[zz]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "[v.a]",
            "[vg.a]",
            "[v1.]",
            "[v1a]",
            "[::1%25eth0]",
            "caf\u{e9}",
            "a:80:80",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn targets() {
        let read = |method, target: &str| {
            read(method, target)
                .map(|target| (target.path_and_query, target.is_https))
                .map_err(|error| error.response().status)
        };
        let longest = format!("/{}", "p".repeat(TARGET_LIMIT - 1));
        for (method, target, path_and_query, is_https) in [
            ("GET", "/", "/", false),
            ("GET", "/a?b\\c|{d}?", "/a?b\\c|{d}?", false),
            ("GET", "/-._~!$&'()*+,;=:@%zz", "/-._~!$&'()*+,;=:@%zz", false),
            ("GET", "//a", "//a", false),
            ("GET", "http://h", "/", false),
            ("GET", "http://h?x=/", "/?x=/", false),
            ("GET", "HTTP://h:80/a?b", "/a?b", false),
            ("GET", "hTTps://h/a", "/a", true),
            ("OPTIONS", "*", "*", false),
            ("OPTIONS", "http://h", "*", false),
            ("OPTIONS", "http://h/", "/", false),
            ("OPTIONS", "http://h?", "/?", false),
            ("GET", &longest, &longest, false),
        ] {
            assert_eq!(read(method, target), Ok((path_and_query.to_owned(), is_https)), "{method} {target}");
        }
        for (method, target, status) in [
            ("GET", "*", 400),
            ("GET", "", 400),
            ("GET", "a", 400),
            ("GET", "h:80", 400),
            ("GET", "://h/", 400),
            ("GET", "ftp://h/", 400),
            ("GET", "http:///a", 400),
            ("GET", "http://:80/", 400),
            ("GET", "https://%zz/", 400),
            ("GET", "http://u@h/", 400),
            ("GET", "/a\\b", 400),
            ("GET", "/a|b", 400),
            ("GET", "/[a]", 400),
            ("GET", "http://h/a\"b", 400),
            ("GET", "/a#b", 400),
            ("GET", "/caf\u{e9}", 400),
            ("CONNECT", "h:80", 501),
            ("GET", &format!("{longest}p"), 414),
        ] {
            assert_eq!(read(method, target), Err(status), "{method} {target}");
        }
    }
}
