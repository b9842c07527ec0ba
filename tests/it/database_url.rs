//! Database URLs as libpq means them: Unix sockets, password files, and parameters that are not taken.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scratch::Scratch;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::secured::{PASSWORD, Secured};
use crate::support::server::{Server, Start};

/// What `keys list` with this URL ends with, and says on stderr.
fn list(scratch: &Scratch, variables: &[(&str, &str)], url: &str) -> (Option<i32>, String) {
    let outcome = scratch.run_with(variables, &["keys", "list", "--database-url", url]);
    (outcome.code, outcome.stderr)
}

#[track_caller]
fn assert_lists(url: &str) {
    let (code, stderr) = list(&Scratch::new(), &[], url);
    assert_eq!(code, Some(0), "{url}: {stderr}");
}

#[test]
fn a_slash_in_a_password_puts_none_of_it_into_a_message() {
    let home = crate::support::directory::Directory::new();
    let url = "postgresql://bob:12/s3cr3tpw@127.0.0.1:1/x";
    let home = home.path().to_str().unwrap().to_owned();
    let words = ["--home", &*home, "serve", "--database-url", url];
    let ended = crate::support::program::Process::start(crate::support::program::cloacinactl(words)).ended();
    let ended = ended.expect_code(2);
    assert!(ended.stderr.contains("%2F") && !ended.stderr.contains("s3cr3tpw"), "{ended:#?}");
}

#[test]
fn unix_sockets() {
    let secured = Secured::shared();
    let database = secured.database();
    Server::migrate(&database);
    let (port, name) = (secured.cluster.port(), database.name());
    let directory = secured.cluster.socket_directory().to_str().unwrap();
    let encoded = directory.replace('/', "%2F");
    for url in [
        format!("postgresql://postgres@{encoded}:{port}/{name}"),
        format!("postgresql://postgres@/{name}?host={directory}&port={port}"),
        format!("postgresql:///{name}?host={directory}&port={port}&user=postgres"),
        format!("postgresql:///{name}?host={encoded}&port={port}&user=postgres"),
        format!("host={directory} port={port} user=postgres dbname={name}"),
        // There is no TLS on a socket, so nothing is verified either.
        format!("host={directory} port={port} user=postgres dbname={name} sslmode=verify-full"),
        // The first of them is not there.
        format!("postgresql://postgres@%2Fnowhere,{encoded}:{port}/{name}"),
        format!("postgresql://postgres@%2Fnowhere,127.0.0.1:{port}/{name}"),
    ] {
        assert_lists(&url);
    }
    let url = format!("postgresql:///{name}?host={directory}&port={port}&user=postgres");
    let server = Start::without_database().database_url(&url).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    let over: i64 = database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
         AND application_name = 'cloacinactl' AND client_addr IS NOT NULL",
    );
    assert_eq!(over, 0, "a session is not over the socket");
    let (code, stderr) = list(
        &Scratch::new(),
        &[],
        &format!("postgresql:///{name}?host=/nowhere&user=postgres&password=secret&connect_timeout=1"),
    );
    // It may come up; the wait for that is a setting.
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(" /nowhere/.s.PGSQL.5432 ") && !stderr.contains("secret"), "{stderr}");
}

/// Where psql looks when the URL names no host; which of these is there depends on the system.
#[test]
fn no_host_is_the_usual_unix_socket() {
    let usual = ["/var/run/postgresql", "/tmp"].into_iter().find(|path| Path::new(path).is_dir()).unwrap();
    for url in [
        "postgresql:///d?port=1&user=u",
        "postgresql://u@:1/d",
        "postgresql://u@/d?port=1",
        "dbname=d user=u port=1",
        "postgresql://u@:1/d?host=",
    ] {
        let arguments = ["keys", "list", "--database-url", url, "--database-wait", "0s"];
        let place = format!("cannot connect to database `d` at {usual}/.s.PGSQL.1 as user `u`");
        Scratch::new().run(&arguments).failed(1, &[&place]);
    }
    // The same among several: the first of them is not there.
    let secured = Secured::shared();
    let database = secured.database();
    Server::migrate(&database);
    let (port, name) = (secured.cluster.port(), database.name());
    let directory = secured.cluster.socket_directory().to_str().unwrap();
    assert_lists(&format!("host=,{directory} port=1,{port} user=postgres dbname={name}"));
    assert_lists(&format!("postgresql://postgres@:1,127.0.0.1:{port}/{name}"));
}

/// Whoever runs the program is who PostgreSQL takes it for.
#[test]
fn a_unix_socket_that_knows_its_peer() {
    let secured = Secured::shared();
    let database = secured.database();
    Server::migrate(&database);
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let user = user.trim();
    if user != "postgres" {
        database.execute(&format!("CREATE ROLE \"{user}\" LOGIN SUPERUSER"));
    }
    let directory = secured.cluster.socket_directory().to_str().unwrap();
    let (port, name) = (secured.cluster.port(), database.name());
    assert_lists(&format!("postgresql:///{name}?host={directory}&port={port}"));
    assert_lists(&format!("postgresql://{user}@/{name}?host={directory}&port={port}"));
    let url = format!("postgresql://tls_only@/{name}?host={directory}&port={port}");
    let (code, stderr) = list(&Scratch::new(), &[], &url);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("Peer authentication failed"), "{stderr}");
}

fn written(path: PathBuf, content: &str, mode: u32) -> PathBuf {
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// The database of a test, for the role that has a password.
struct WithPassword {
    secured: &'static Secured,
    database: Database,
    scratch: Scratch,
}

impl WithPassword {
    fn new() -> WithPassword {
        let secured = Secured::shared();
        let database = secured.database();
        Server::migrate(&database);
        WithPassword { secured, database, scratch: Scratch::new() }
    }

    fn url(&self, parameters: &str) -> String {
        self.secured.url(&self.database, "scram", parameters)
    }

    /// Asserts that the password in this file lets in, and nothing is said of it.
    #[track_caller]
    fn assert_let_in(&self, variables: &[(&str, &str)], parameters: &str) {
        let (code, stderr) = list(&self.scratch, variables, &self.url(parameters));
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!stderr.contains("password") && !stderr.contains(PASSWORD), "{stderr}");
    }

    /// Asserts that nobody is let in, at once, and that it says all of this.
    #[track_caller]
    fn assert_shut_out(&self, variables: &[(&str, &str)], parameters: &str, words: &[&str]) {
        let (code, stderr) = list(&self.scratch, variables, &self.url(parameters));
        assert_eq!(code, Some(1), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{word:?} in {stderr}");
        }
        assert!(!stderr.contains("waiting") && !stderr.contains(PASSWORD), "{stderr}");
    }
}

/// `PASSWORD` as it is written in a password file.
const ESCAPED: &str = r"p\:w\\ord";
const NO_PASSWORD: &str = "there is none in the database URL";

#[test]
fn the_three_places_of_a_password_file() {
    let with = WithPassword::new();
    let files = Directory::new();
    with.assert_shut_out(&[], "", &[NO_PASSWORD]);
    let right = written(files.join("right"), &format!("*:*:*:scram:{ESCAPED}\n"), 0o600);
    let wrong = written(files.join("wrong"), "*:*:*:scram:of-another-one\n", 0o600);
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    with.assert_let_in(&[], &format!("passfile={right}"));
    with.assert_let_in(&[("PGPASSFILE", right)], "");
    with.assert_let_in(&[("PGPASSFILE", wrong)], &format!("passfile={right}"));
    with.assert_shut_out(&[("PGPASSFILE", right)], &format!("passfile={wrong}"), &["password", wrong]);
    written(with.scratch.path().join(".pgpass"), &format!("*:*:*:scram:{ESCAPED}\n"), 0o600);
    with.assert_let_in(&[], "");
    with.assert_shut_out(&[("PGPASSFILE", wrong)], "", &["password", wrong]);
    // The password of the URL counts more than any file.
    let (code, stderr) = list(&with.scratch, &[], &with.secured.url(&with.database, "scram:of-the-url", ""));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(!stderr.contains("of-the-url") && !stderr.contains(".pgpass"), "{stderr}");
    let url = with.secured.url(&with.database, "scram:p%3Aw%5Cord", &format!("passfile={wrong}"));
    assert_eq!(list(&with.scratch, &[], &url).0, Some(0));
    let url = with.url("password=p:w%5Cord&passfile=/nowhere");
    assert_eq!(list(&with.scratch, &[], &url).0, Some(0));
    // A server reads the same.
    let start = Start::without_database().database_url(&with.url(&format!("passfile={right}")));
    let server = start.environment("RUST_LOG", "trace").serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    let said = server.stderr_with("serving version=") + &server.log();
    assert!(!said.contains(PASSWORD) && !said.contains(ESCAPED), "{said}");
}

#[test]
fn password_files_that_are_ignored() {
    let with = WithPassword::new();
    let files = Directory::new();
    let content = format!("*:*:*:scram:{ESCAPED}\n");
    let ignored = |path: &Path, reason: &str| {
        let path = path.to_str().unwrap();
        let words = &["ignored", path, reason, NO_PASSWORD];
        with.assert_shut_out(&[], &format!("passfile={path}"), words);
        with.assert_shut_out(&[("PGPASSFILE", path)], "", words);
    };
    for mode in [0o644, 0o640, 0o604, 0o660, 0o620] {
        ignored(&written(files.join("open"), &content, mode), "0600");
    }
    ignored(&files.join("gone"), "No such file");
    ignored(files.path(), "is a directory");
    with.assert_let_in(&[], &format!("passfile={}", written(files.join("open"), &content, 0o400).display()));
    symlink(files.join("open"), files.join("link")).unwrap();
    with.assert_let_in(&[], &format!("passfile={}", files.join("link").display()));
    // The usual one need not be there; where it is, it has to be closed.
    let usual = with.scratch.path().join(".pgpass");
    written(usual.clone(), &content, 0o644);
    with.assert_shut_out(&[], "", &["ignored", usual.to_str().unwrap(), "0600", NO_PASSWORD]);
}

#[test]
fn lines_of_a_password_file() {
    let with = WithPassword::new();
    let (port, name) = (with.secured.cluster.port(), with.database.name());
    let file = with.scratch.path().join(".pgpass");
    let write = |content: &str| _ = written(file.clone(), content, 0o600);
    for content in [
        format!("db.example:{port}:{name}:scram:{ESCAPED}"),
        format!(
            "# *:*:*:*:of-a-comment\n\nnonsense\nother:*:*:*:wrong\n*:1:*:*:wrong\n*:*:other:*:wrong\n*:*:*:postgres:wrong\n*:*:*:*:{ESCAPED}\r\n*:*:*:*:later"
        ),
        format!(r"d\b.example:*:*:scram:{ESCAPED}:and more"),
    ] {
        write(&content);
        with.assert_let_in(&[], "");
    }
    write(&format!("127.0.0.1:*:*:*:{ESCAPED}\ndb.example:1:*:*:{ESCAPED}\n"));
    with.assert_shut_out(&[], "", &[NO_PASSWORD]);
    write(&format!("*:*:*:*:wrong\n*:*:*:*:{ESCAPED}\n"));
    with.assert_shut_out(&[], "", &["password authentication failed", ".pgpass"]);
    // A Unix socket goes by its directory, and each host by its own line.
    let directory = with.secured.cluster.socket_directory().to_str().unwrap();
    write(&format!("{directory}:*:*:*:{ESCAPED}\n*:*:*:*:wrong\n"));
    let url = format!("host=127.0.0.1,{directory} port={port} user=scram dbname={name} sslmode=disable");
    let (code, stderr) = list(&with.scratch, &[], &url);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn parameters_that_are_not_taken_are_named() {
    let scratch = Scratch::new();
    const TAKEN: &[&str] = &["sslmode", "sslrootcert", "passfile", "channel_binding", "connect_timeout"];
    for name in
        ["service", "gssencmode", "krbsrvname", "sslcrl", "sslpassword", "replication", "client_encoding"]
    {
        for url in [
            format!("postgresql://u:topsecret@127.0.0.1:1/d?{name}=topsecret"),
            format!("host=127.0.0.1 password=topsecret {name}=topsecret"),
        ] {
            let outcome = scratch.run(&["serve", "--database-url", &url]);
            outcome.failed(2, &["`--database-url`", &format!("the parameter {name}, which is not taken")]);
            outcome.failed(2, TAKEN);
            assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
            scratch.run(&["keys", "list", "--database-url", &url]).failed(2, &[name]);
            scratch.run(&["config", "set", "database_url", &url]).failed(2, &["`database_url`", name]);
        }
    }
    for (name, meant) in
        [("sslmod", "sslmode"), ("ssl_rootcert", "sslrootcert"), ("SSLMODE", "sslmode"), ("hots", "host")]
    {
        let url = format!("postgresql://u:topsecret@127.0.0.1:1/d?{name}=topsecret");
        let outcome = scratch.run(&["serve", "--database-url", &url]);
        outcome.failed(2, &[&format!("unknown parameter {name}; did you mean {meant}?")]);
        outcome.failed(2, TAKEN);
        assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    }
    // This may be the end of a password with a space in it, so it is told by its place.
    let url = "host=127.0.0.1 password=my topsecret=1";
    let outcome = scratch.run(&["serve", "--database-url", url]);
    outcome.failed(2, &["unknown parameter, the one at place 3"]);
    outcome.failed(2, TAKEN);
    assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    // Of those that are written with their names.
    for (query, place) in [("topsecret=1", 1), ("sslmode=disable&&topsecret=1", 2)] {
        let url = format!("postgresql://u:topsecret@127.0.0.1:1/d?{query}");
        let outcome = scratch.run(&["serve", "--database-url", &url]);
        outcome.failed(2, &[&format!("unknown parameter, the one at place {place};")]);
        assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    }
}

#[test]
fn values_of_parameters() {
    let scratch = Scratch::new();
    for (pair, right) in [
        (
            "sslmode=topsecret",
            "sslmode: it must be one of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        ("sslmode=Require", "sslmode: it must be one of"),
        ("ssl=false", "the parameter ssl, which is not taken"),
        ("channel_binding=topsecret", "disable, prefer, require"),
        ("sslnegotiation=topsecret", "postgres, direct"),
        (
            "target_session_attrs=topsecret",
            "target_session_attrs: it must be one of any, read-write, primary",
        ),
        (
            "target_session_attrs=read-only",
            "target_session_attrs: it must be one of any, read-write, primary",
        ),
        ("target_session_attrs=standby", "for the server writes"),
        ("target_session_attrs=prefer-standby", "for the server writes"),
        ("load_balance_hosts=topsecret", "disable, random"),
        ("connect_timeout=topsecret", "connect_timeout: it must be a whole number"),
        ("hostaddr=topsecret", "hostaddr: it must be IP addresses"),
        ("hostaddr=127.0.0.1,127.0.0.2", "hostaddr"),
        ("port=1,2", "ports"),
        ("port=70000", "port must be numbers"),
        ("application_name=%ff", "application_name: it must be UTF-8"),
    ] {
        let url = format!("postgresql://u@127.0.0.1/d?{pair}");
        let outcome = scratch.run(&["serve", "--database-url", &url]);
        outcome.failed(2, &["`--database-url`", right]);
        assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    }
}

#[test]
fn parameters_that_are_taken() {
    let database = Database::new();
    let url = database.url();
    let url = format!(
        "{url}{}connect_timeout=10&application_name=mine&options=-c%20work_mem%3D5MB&keepalives=1&keepalives_idle=30\
         &keepalives_interval=5&keepalives_count=4&tcp_user_timeout=20000&target_session_attrs=primary\
         &load_balance_hosts=random&channel_binding=prefer&sslmode=prefer",
        if url.contains('?') { "&" } else { "?" }
    );
    let server = Start::without_database().database_url(&url).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    let seen: i64 = database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mine'",
    );
    assert!(seen > 0);
}

#[test]
fn what_is_shown_of_a_url_has_no_password_in_its_parameters() {
    let scratch = Scratch::new();
    let url = "postgresql://u@h/d?password=topsecret&sslmode=verify-full&sslrootcert=/etc/ca.crt&passfile=/p";
    scratch.run(&["config", "set", "database_url", url]).printed("");
    let list = scratch.run(&["config", "list"]);
    let shown = "postgresql://u@h/d?password=***&sslmode=verify-full&sslrootcert=/etc/ca.crt&passfile=/p";
    assert!(list.stdout.contains(shown) && !list.stdout.contains("topsecret"), "{list:?}");
}
