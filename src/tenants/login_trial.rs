//! A login with a tenant's connection string, right after it was made: whether the database, or a pooler before it, lets
//! the new role in.

use std::time::Duration;

use postgres::error::{DbError, SqlState};

use super::connection_string::{Address, ConnectionString};
use crate::config::database_url::Host;
use crate::postgres_link::{ConnectError, Hosts};
use crate::terminal::shown;

/// For all hosts together.
const LIMIT: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum LoginTrial {
    LetIn,
    /// No client will get in: what the database says, and what helps.
    Refused(String),
    /// Why it could not be found out.
    NotKnown(String),
}

/// A login that is tried.
pub struct Login<'a> {
    pub user: &'a str,
    pub address: &'a Address,
    pub connection_string: &'a ConnectionString,
    /// Whether the address is one that was set for tenants. That may be a standby, which learns of a new role late.
    pub is_at_host_of_tenants: bool,
}

impl Login<'_> {
    /// Tries it once, with the TLS of the server's own connections. `left`: of the request's time.
    pub fn try_once(&self, server: &Hosts, left: Duration) -> LoginTrial {
        let hosts = match server.with_same_tls(self.connection_string.reveal()) {
            Ok(hosts) => hosts,
            Err(error) => return LoginTrial::NotKnown(error.to_string()),
        };
        match hosts.log_in(LIMIT.min(left)) {
            Ok(()) => LoginTrial::LetIn,
            Err(errors) => self.judge(&errors),
        }
    }

    /// Refused is what every host refuses: the others may let the role in.
    fn judge(&self, errors: &[ConnectError]) -> LoginTrial {
        let refusals: Vec<_> = errors.iter().filter_map(|error| self.refusal(error)).collect();
        match (refusals.first(), errors.last()) {
            (Some(refusal), _) if refusals.len() == errors.len() => LoginTrial::Refused(self.told(refusal)),
            (_, Some(error)) => LoginTrial::NotKnown(shown(&error.to_string())),
            (_, None) => LoginTrial::NotKnown("there is no host".to_owned()),
        }
    }

    fn refusal<'a>(&self, error: &'a ConnectError) -> Option<Refusal<'a>> {
        let ConnectError::Driver(error) = error else { return None };
        let error = error.as_db_error()?;
        let cause = Cause::of(error)?;
        (cause != Cause::Credentials || !self.is_at_host_of_tenants).then_some(Refusal { cause, error })
    }

    fn told(&self, Refusal { cause, error }: &Refusal<'_>) -> String {
        let Login { user, address: Address { hosts, database, .. }, .. } = self;
        let says = format!("{} (SQLSTATE {})", shown(error.message()), error.code().code());
        let helps = match cause {
            Cause::Rule => {
                let (kind, place) =
                    if hosts.iter().all(Host::is_unix) { ("local", "") } else { ("host", "ADDRESS ") };
                format!(
                    "add a line `{kind} {} {} {place}scram-sha-256` to its pg_hba.conf, before others that match",
                    word(database),
                    word(user)
                )
            }
            Cause::Credentials => {
                "if a pooler stands there, it has to ask the database for passwords (PgBouncer: auth_query)"
                    .to_owned()
            }
            Cause::NoDatabase => format!("there is no database `{database}` at that address"),
            Cause::NoConnect => "CONNECT on the database has to be granted to PUBLIC".to_owned(),
        };
        format!(
            "the database does not let the new role in: {says}; {helps}, or name another address for tenants with \
             --tenant-database-host"
        )
    }
}

struct Refusal<'a> {
    cause: Cause,
    error: &'a DbError,
}

/// Why a role is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// pg_hba.conf has no rule for it, or one that asks for something else than a password.
    Rule,
    /// The password is not the role's, or there is no such role: a pooler does not know of it, or a standby not yet.
    Credentials,
    NoDatabase,
    /// CONNECT is not granted.
    NoConnect,
}

impl Cause {
    /// `None`: another login may get in.
    fn of(error: &DbError) -> Option<Cause> {
        match error.code() {
            // A role that is not there, where no password is asked for.
            code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => match error.routine() {
                Some("InitializeSessionUserId") => Some(Cause::Credentials),
                _ => Some(Cause::Rule),
            },
            code if *code == SqlState::INVALID_PASSWORD => Some(Cause::Credentials),
            code if *code == SqlState::INVALID_CATALOG_NAME => Some(Cause::NoDatabase),
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => Some(Cause::NoConnect),
            // What PgBouncer says of everything; some of it passes.
            code if *code == SqlState::PROTOCOL_VIOLATION => {
                let says = |text| error.message().contains(text);
                if says("no such database") {
                    Some(Cause::NoDatabase)
                } else if says("no such user") || says("authentication failed") {
                    Some(Cause::Credentials)
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

/// A name as a line of pg_hba.conf has it: in quotes where it would mean something else without.
fn word(name: &str) -> String {
    const KEYWORDS: &[&str] = &["all", "sameuser", "samerole", "samegroup", "replication"];
    let is_plain =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    match is_plain && !KEYWORDS.contains(&name) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::tenants::password::Password;

    /// What stands for a PostgreSQL.
    #[derive(Clone, Copy)]
    enum Server {
        /// It takes connections and says nothing.
        Silent,
        Welcoming,
        /// SQLSTATE, message and routine of its answer.
        Refusing(&'static str, &'static str, &'static str),
    }

    impl Server {
        /// Serves connections on a free port until the test ends.
        fn start(self) -> u16 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    std::thread::spawn(move || self.serve(stream.unwrap()));
                }
            });
            port
        }

        fn serve(self, mut stream: TcpStream) {
            const TLS_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
            let mut packet = || {
                let mut length = [0; 4];
                stream.read_exact(&mut length).ok()?;
                let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
                stream.read_exact(&mut rest).ok()?;
                Some(rest)
            };
            if packet().is_some_and(|rest| rest == TLS_REQUEST) {
                stream.write_all(b"N").unwrap();
                let mut rest = [0; 512];
                let _ = stream.read(&mut rest);
            }
            match self {
                Server::Silent => _ = stream.read_to_end(&mut Vec::new()),
                Server::Welcoming => {
                    stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
                    let _ = stream.read_to_end(&mut Vec::new());
                }
                Server::Refusing(code, message, routine) => {
                    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0R{routine}\0\0");
                    stream.write_all(b"E").unwrap();
                    stream.write_all(&(fields.len() as u32 + 4).to_be_bytes()).unwrap();
                    stream.write_all(fields.as_bytes()).unwrap();
                }
            }
        }
    }

    fn trial(servers: &[Server], is_at_host_of_tenants: bool) -> LoginTrial {
        let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.start())).collect();
        trial_at(&hosts.join(","), is_at_host_of_tenants)
    }

    fn trial_at(hosts: &str, is_at_host_of_tenants: bool) -> LoginTrial {
        let server = Hosts::new(&format!("postgresql://me@{hosts}/shop")).unwrap();
        let address = &Address::new(&server, None);
        let connection_string =
            &ConnectionString::new("acme", &Password::from_text("s3cret").unwrap(), address);
        let login = Login { user: "acme", address, connection_string, is_at_host_of_tenants };
        let outcome = login.try_once(&server, Duration::MAX);
        assert!(!format!("{outcome:?}").contains("s3cret"), "{outcome:?}");
        outcome
    }

    #[test]
    fn refusals_say_what_helps() {
        let rule =
            "add a line `host shop acme ADDRESS scram-sha-256` to its pg_hba.conf, before others that match";
        let pooler =
            "if a pooler stands there, it has to ask the database for passwords (PgBouncer: auth_query)";
        for (code, message, routine, helps) in [
            ("28000", "no pg_hba.conf entry for host", "ClientAuthentication", rule),
            ("28000", "LDAP authentication failed", "auth_failed", rule),
            ("28000", "role \"acme\" does not exist", "InitializeSessionUserId", pooler),
            ("28P01", "password authentication failed", "auth_failed", pooler),
            ("08P01", "no such user: acme", "", pooler),
            ("08P01", "SASL authentication failed", "", pooler),
            ("08P01", "no such database: shop", "", "there is no database `shop` at that address"),
            (
                "3D000",
                "database \"shop\" does not exist",
                "InitPostgres",
                "there is no database `shop` at that address",
            ),
            (
                "42501",
                "permission denied for database \"shop\"",
                "CheckMyDatabase",
                "CONNECT on the database has to be granted to PUBLIC",
            ),
        ] {
            let expected = format!(
                "the database does not let the new role in: {message} (SQLSTATE {code}); {helps}, or name another \
                 address for tenants with --tenant-database-host"
            );
            assert_eq!(
                trial(&[Server::Refusing(code, message, routine)], false),
                LoginTrial::Refused(expected)
            );
        }
    }

    #[test]
    fn what_may_pass_is_not_known() {
        for (code, message) in [
            ("53300", "sorry, too many clients already"),
            ("57P03", "the database system is starting up"),
            ("08P01", "query_wait_timeout"),
        ] {
            let outcome = trial(&[Server::Refusing(code, message, "")], false);
            assert_eq!(outcome, LoginTrial::NotKnown(format!("{message} (SQLSTATE {code})")));
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outcome = trial_at(&free.to_string(), false);
        assert!(matches!(&outcome, LoginTrial::NotKnown(why) if why.contains("refused")), "{outcome:?}");
    }

    #[test]
    fn a_standby_may_not_know_the_role_yet() {
        for (code, routine) in [("28P01", "auth_failed"), ("28000", "InitializeSessionUserId")] {
            let outcome = trial(&[Server::Refusing(code, "no", routine)], true);
            assert_eq!(outcome, LoginTrial::NotKnown(format!("no (SQLSTATE {code})")));
        }
        let outcome = trial(&[Server::Refusing("28000", "no", "ClientAuthentication")], true);
        assert!(matches!(outcome, LoginTrial::Refused(_)), "{outcome:?}");
    }

    #[test]
    fn of_several_hosts_one_is_enough() {
        const NO: Server = Server::Refusing("28P01", "no", "auth_failed");
        assert_eq!(trial(&[Server::Welcoming], false), LoginTrial::LetIn);
        assert_eq!(trial(&[NO, Server::Welcoming], false), LoginTrial::LetIn);
        assert!(matches!(trial(&[NO, NO], false), LoginTrial::Refused(_)));
        assert!(matches!(trial(&[NO, Server::Refusing("57P03", "no", "")], false), LoginTrial::NotKnown(_)));
    }

    #[test]
    fn a_silent_host_has_two_seconds() {
        let start = Instant::now();
        let outcome = trial(&[Server::Silent], false);
        assert_eq!(outcome, LoginTrial::NotKnown("it takes connections and does not answer".to_owned()));
        let took = start.elapsed();
        assert!(LIMIT <= took && took < LIMIT * 3, "{took:?}");
    }

    #[test]
    fn names_in_pg_hba_conf() {
        for (name, expected) in
            [("shop_1", "shop_1"), ("all", "\"all\""), ("my shop", "\"my shop\""), ("a\"b", "\"a\"\"b\"")]
        {
            assert_eq!(word(name), expected);
        }
    }
}
