//! The connection string that a tenant is given: it works as it stands, whatever its parts are made of.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::password::Password;
use crate::config::TenantDatabaseHost;
use crate::config::database_url::{Host, SslMode};
use crate::postgres_link::Hosts;

/// All but what never means anything in a URL (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for a path in a query.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Where tenants find the database.
pub struct Address {
    /// At least one.
    pub hosts: Vec<Host>,
    pub database: String,
    /// What the server asks of its own connections.
    pub mode: SslMode,
}

impl Address {
    /// That of the server's own connections, but for the host that was set for tenants. Its port is that of the first
    /// host where it has none.
    pub fn new(server: &Hosts, set: Option<&TenantDatabaseHost>) -> Address {
        let instead = |first: &Host| {
            let TenantDatabaseHost { name, port } = set?.clone();
            Some(Host { name, address: None, port: port.unwrap_or(first.port) })
        };
        let hosts = match server.hosts().next().and_then(instead) {
            Some(host) => vec![host],
            None => server.hosts().cloned().collect(),
        };
        Address { hosts, database: server.database.clone(), mode: server.mode }
    }
}

/// A whole connection string. Only `reveal` gives it away, for it has the password.
pub struct ConnectionString(String);

impl ConnectionString {
    /// `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, each part percent-encoded. Ports are always there: a client's
    /// own default may be another.
    pub fn new(user: &str, password: &Password, address: &Address) -> ConnectionString {
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let Address { hosts, database, mode } = address;
        let mut parameters = Vec::new();
        // A directory would have to be encoded where hosts are, which few programs but libpq take.
        let has_directory = hosts.iter().any(Host::is_unix);
        let list = |part: &dyn Fn(&Host) -> String| hosts.iter().map(part).collect::<Vec<_>>().join(",");
        let place = if has_directory {
            let in_query = |host: &Host| utf8_percent_encode(&host.name, ENCODED_IN_PATH).to_string();
            parameters.push(format!("host={}", list(&in_query)));
            parameters.push(format!("port={}", list(&|host| host.port.to_string())));
            String::new()
        } else {
            list(&|Host { name, port, .. }| match name.contains(':') {
                true => format!("[{}]:{port}", name.replace('%', "%25")),
                false => format!("{}:{port}", encoded(name)),
            })
        };
        // A database URL has one for each of its hosts, or for none.
        let addresses: Option<Vec<_>> =
            hosts.iter().map(|host| host.address.map(|it| it.to_string())).collect();
        if let Some(addresses) =
            addresses.filter(|them| them.iter().zip(hosts).any(|(it, host)| *it != host.name))
        {
            parameters.push(format!("hostaddr={}", addresses.join(",")));
        }
        // Of several, a standby would be as good as any; tenants write.
        if hosts.len() > 1 {
            parameters.push("target_session_attrs=read-write".to_owned());
        }
        if *mode >= SslMode::Require && !hosts.iter().all(Host::is_unix) {
            parameters.push("sslmode=require".to_owned());
        }
        let mut text = format!(
            "postgresql://{}:{}@{place}/{}",
            encoded(user),
            encoded(password.reveal()),
            encoded(database)
        );
        for (parameter, separator) in
            parameters.iter().zip(std::iter::once('?').chain(std::iter::repeat('&')))
        {
            text.push(separator);
            text.push_str(parameter);
        }
        ConnectionString(text)
    }

    /// The connection string itself: for the one answer that shows it, and the one login that tries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ConnectionString(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::database_url::{self, DatabaseUrl};

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), address: None, port }
    }

    fn made(user: &str, password: &str, address: &Address) -> (String, DatabaseUrl) {
        let password = Password::from_text(password).unwrap();
        let text = ConnectionString::new(user, &password, address).reveal().to_owned();
        let parsed = database_url::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (text, parsed)
    }

    fn of(hosts: &[Host], mode: SslMode) -> Address {
        Address { hosts: hosts.to_vec(), database: "d b".to_owned(), mode }
    }

    #[test]
    fn forms() {
        let there = |name: &str, address: &str| Host { address: address.parse().ok(), ..host(name, 5432) };
        for (hosts, mode, expected) in [
            (vec![host("db.example", 5432)], SslMode::Prefer, "db.example:5432/d%20b"),
            (vec![host("::1", 6432)], SslMode::VerifyFull, "[::1]:6432/d%20b?sslmode=require"),
            (vec![host("fe80::1%eth0", 1)], SslMode::Disable, "[fe80::1%25eth0]:1/d%20b"),
            (
                vec![host("a", 1), host("::1", 2)],
                SslMode::Require,
                "a:1,[::1]:2/d%20b?target_session_attrs=read-write&sslmode=require",
            ),
            (vec![host("/run/pg sql", 5433)], SslMode::Require, "/d%20b?host=/run/pg%20sql&port=5433"),
            (
                vec![host("/run/p", 1), host("b", 2)],
                SslMode::VerifyCa,
                "/d%20b?host=/run/p,b&port=1,2&target_session_attrs=read-write&sslmode=require",
            ),
            (
                vec![there("db.example", "10.0.0.7")],
                SslMode::Allow,
                "db.example:5432/d%20b?hostaddr=10.0.0.7",
            ),
            (vec![there("h", "::1")], SslMode::Allow, "h:5432/d%20b?hostaddr=::1"),
        ] {
            let (text, parsed) = made("u", "p", &of(&hosts, mode));
            assert_eq!(text, format!("postgresql://u:p@{expected}"));
            assert_eq!(parsed.hosts, hosts, "{text}");
            let is_encrypted = expected.ends_with("sslmode=require");
            assert_eq!(parsed.mode, if is_encrypted { SslMode::Require } else { SslMode::Prefer }, "{text}");
        }
    }

    #[test]
    fn an_address_that_is_the_name_as_well_stands_once() {
        let server = Hosts::new("postgresql://me@/d?hostaddr=10.0.0.7,::1").unwrap();
        let (text, parsed) = made("u", "p", &Address::new(&server, None));
        assert_eq!(text, "postgresql://u:p@10.0.0.7:5432,[::1]:5432/d?target_session_attrs=read-write");
        assert_eq!(parsed.hosts, [host("10.0.0.7", 5432), host("::1", 5432)]);
    }

    #[test]
    fn an_address_of_their_own() {
        let server =
            Hosts::new("postgresql://me:pw@/shop?host=/run/a,b&port=6432,2&sslmode=require").unwrap();
        let server_address = Address::new(&server, None);
        assert_eq!(server_address.hosts, [host("/run/a", 6432), host("b", 2)]);
        assert_eq!((&*server_address.database, server_address.mode), ("shop", SslMode::Require));
        for (port, expected) in [(None, 6432), (Some(5432), 5432)] {
            let set = TenantDatabaseHost { name: "db.example".to_owned(), port };
            assert_eq!(Address::new(&server, Some(&set)).hosts, [host("db.example", expected)]);
        }
        let unnamed = Hosts::new("postgresql://me@h").unwrap();
        assert_eq!(Address::new(&unnamed, None).database, "me");
    }

    #[test]
    fn any_characters_come_through() {
        let pieces = [
            "@",
            ":",
            "/",
            "?",
            "#",
            "%",
            "&",
            "=",
            "+",
            " ",
            "'",
            "\"",
            "\\",
            ",",
            "[",
            "]",
            "%40",
            "%zz",
            "\u{e9}",
            "\u{1f511}",
            "a",
            "Z",
            "0",
            "-",
            "_",
            ".",
            "~",
            "$",
            "!",
            "*",
            "(",
            ";",
            "<",
            "|",
            "`",
            "^",
            "{",
        ];
        let mut state = 1_u64;
        let mut odd = |is_database: bool| {
            let mut text = String::new();
            while text.chars().count() < 12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let piece = pieces[(state >> 33) as usize % pieces.len()];
                // A database URL whose database has one is refused: it is the end of a password.
                text += if is_database && piece == "@" { "x" } else { piece };
            }
            text
        };
        let places = [vec![host("h", 1)], vec![host("/run/x y?&", 2)], vec![host("::1", 3), host("b", 4)]];
        for round in 0..3_000 {
            let (user, password) = (odd(false), odd(false));
            let hosts = &places[round % places.len()];
            let address = Address { hosts: hosts.clone(), database: odd(true), mode: SslMode::Require };
            let (text, parsed) = made(&user, &password, &address);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            assert_eq!(parsed.config.get_user(), Some(&*user), "{text}");
            assert_eq!(parsed.config.get_password(), Some(password.as_bytes()), "{text}");
            assert_eq!(parsed.config.get_dbname(), Some(&*address.database), "{text}");
            assert_eq!(parsed.hosts, *hosts, "{text}");
        }
    }

    #[test]
    fn it_does_not_show_itself() {
        let address = of(&[host("h", 1)], SslMode::Prefer);
        let made = ConnectionString::new("u", &Password::from_text("secret").unwrap(), &address);
        assert_eq!(format!("{made:?}"), "ConnectionString(…)");
    }
}
