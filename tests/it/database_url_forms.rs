//! Database URLs beside psql, which is asked with each: what it reaches is reached, or refused by a message that names
//! what is not taken.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use crate::scratch::{Outcome, Scratch, outcome};
use crate::support::cluster::Cluster;
use crate::support::postgres::Database;

/// Two PostgreSQLs that write down who is let in where.
struct Places {
    clusters: [Cluster; 2],
    scratch: Scratch,
    psql: PathBuf,
}

/// Which of the two, whether over its Unix socket, and the user and the database.
type Place = (usize, bool, String);

impl Places {
    fn new() -> Places {
        let clusters = [Cluster::start(), Cluster::start()];
        for cluster in &clusters {
            cluster
                .set("log_connections = on\nlog_line_prefix = '@%h@ '\nlisten_addresses = '127.0.0.1,::1'");
            let database = Database::in_cluster(cluster);
            database.execute("CREATE DATABASE \"a b/c%d\"");
            database.execute("CREATE ROLE \"o'n:e@%\" LOGIN SUPERUSER");
            if own_user() != "postgres" {
                database.execute(&format!("CREATE ROLE \"{}\" LOGIN SUPERUSER", own_user()));
            }
        }
        let psql = clusters[0].program("psql");
        Places { clusters, scratch: Scratch::new(), psql }
    }

    /// The form with what stands in it for the places.
    fn filled(&self, form: &str) -> String {
        let directory = |index: usize| self.clusters[index].socket_directory().to_str().unwrap().to_owned();
        let port = |index: usize| self.clusters[index].port().to_string();
        form.replace("{dir}", &directory(0))
            .replace("{%dir}", &directory(0).replace('/', "%2F"))
            .replace("{dir2}", &directory(1))
            .replace("{port}", &port(0))
            .replace("{port2}", &port(1))
    }

    /// Where sessions were begun meanwhile.
    fn reached(&self, act: impl FnOnce() -> Outcome) -> (Vec<Place>, Outcome) {
        let before = self.clusters.each_ref().map(|cluster| cluster.log().len());
        let outcome = act();
        let mut places = Vec::new();
        for (index, cluster) in self.clusters.iter().enumerate() {
            for line in cluster.log()[before[index]..].lines() {
                let Some((from, said)) = line.split_once("connection authorized: ") else { continue };
                let said = said.split(" application_name=").next().unwrap_or_default();
                places.push((index, from.starts_with("@[local]@"), said.to_owned()));
            }
        }
        places.dedup();
        (places, outcome)
    }

    fn psql(&self, form: &str) -> (Vec<Place>, Outcome) {
        let mut command = Command::new(&self.psql);
        command.args(["-XAtwqc", "SELECT 1", form]).env_clear().env("HOME", self.scratch.path());
        self.reached(|| outcome(command.output().unwrap()))
    }

    fn ours(&self, form: &str, variables: &[(&str, String)]) -> (Vec<Place>, Outcome) {
        let arguments = ["keys", "list", "--database-url", form, "--database-wait", "0s"];
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.reached(|| self.scratch.run_with(&variables, &arguments))
    }
}

/// Who runs the tests.
fn own_user() -> String {
    let said = Command::new("id").arg("-un").output().unwrap().stdout;
    String::from_utf8(said).unwrap().trim().to_owned()
}

/// What psql takes, and what of it is not taken here, in the words of the refusal.
const FORMS: &[(&str, Option<&str>)] = &[
    ("postgresql://postgres@127.0.0.1:{port}/postgres", None),
    ("postgres://postgres@127.0.0.1:{port}/template1", None),
    // What is left out.
    ("postgresql://postgres@127.0.0.1:{port}", None),
    ("postgresql://postgres@127.0.0.1:{port}/", None),
    ("postgresql://127.0.0.1:{port}/postgres", None),
    ("postgresql:///postgres?host=127.0.0.1&port={port}", None),
    ("postgresql://?host={dir}&port={port}&user=postgres", None),
    ("postgresql://postgres@/?host={dir}&port={port}", None),
    ("postgresql://:{port}/postgres?host=127.0.0.1&user=postgres", None),
    // Empty parts.
    ("postgresql://postgres:@127.0.0.1:{port}/postgres", None),
    ("postgresql://:@127.0.0.1:{port}/postgres?user=postgres", None),
    ("postgresql://@127.0.0.1:{port}/postgres?user=postgres", None),
    ("postgresql://postgres@127.0.0.1:/postgres?port={port}", None),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?", None),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?application_name=", None),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?password=&options=", None),
    // Percent-encoding, also where it need not be.
    ("postgresql://%70ostgres@127.0.0.1:{port}/%70ostgres", None),
    ("postgresql://o'n%3Ae%40%25@127.0.0.1:{port}/a%20b%2Fc%25d", None),
    ("postgresql://o'n%3ae%40%25@127.0.0.1:{port}/a%20b/c%25d", None),
    ("postgresql://postgres@127.0.0.%31:{port}/postgres", None),
    ("postgresql://127.0.0.1:{port}/?%75ser=p%6Fstgres&%64bname=template1", None),
    ("postgresql://postgres@{%dir}:{port}/postgres", None),
    ("postgresql://{%dir}:{port}/postgres?user=postgres", None),
    ("postgresql:///postgres?host={%dir}&port={port}&user=postgres", None),
    // The later one counts.
    ("postgresql://nobody@nowhere:1/x?user=postgres&host=127.0.0.1&port={port}&dbname=postgres", None),
    ("host=nowhere host=127.0.0.1 port=1 port={port} user=postgres", None),
    // Addresses.
    ("postgresql://postgres@[::1]:{port}/postgres", None),
    ("postgresql://postgres@[::1]/postgres?port={port}", None),
    ("host=::1 port={port} user=postgres", None),
    ("postgresql://postgres@localhost:{port}/postgres", None),
    ("postgresql://postgres@nowhere.invalid:{port}/postgres?hostaddr=127.0.0.1", None),
    ("postgresql:///postgres?hostaddr=127.0.0.1&port={port}&user=postgres", None),
    ("hostaddr=::1 port={port} user=postgres", None),
    ("host=nowhere.invalid hostaddr=127.0.0.1 port={port} user=postgres", None),
    ("host={dir} hostaddr=127.0.0.1 port={port} user=postgres", None),
    ("hostaddr=127.0.0.1,127.0.0.1 port=1,{port} user=postgres", None),
    ("host=a.invalid,b.invalid hostaddr=127.0.0.1,127.0.0.1 port=1,{port2} user=postgres", None),
    // Several places.
    ("postgresql://postgres@127.0.0.1:1,127.0.0.1:{port2}/postgres", None),
    ("postgresql://postgres@127.0.0.1:{port2},127.0.0.1:{port}/postgres", None),
    ("postgresql://postgres@127.0.0.1,[::1]/postgres?port={port}", None),
    ("postgresql://postgres@127.0.0.1,[::1]:{port}/postgres?port=1,{port2}", None),
    ("postgresql://postgres@{%dir}:1,127.0.0.1:{port}/postgres", None),
    ("postgresql:///postgres?host=127.0.0.1,{dir2}&port=1,{port2}&user=postgres", None),
    ("postgresql:///postgres?host={dir2},{dir}&port={port}&user=postgres", None),
    ("host=127.0.0.1,127.0.0.1 port=1,{port} user=postgres", None),
    ("host=127.0.0.1,{dir2} port={port2} user=postgres", None),
    ("host=/nowhere,127.0.0.1 port=,{port} user=postgres", None),
    ("postgresql://postgres@127.0.0.1:{port},/postgres", None),
    (
        "postgresql://postgres@127.0.0.1:{port},127.0.0.1:{port2}/postgres?target_session_attrs=read-write",
        None,
    ),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?target_session_attrs=any", None),
    ("host=127.0.0.1 port={port} user=postgres target_session_attrs=primary", None),
    // Key=value: blanks, quotes, backslashes, values that are empty.
    ("host=127.0.0.1 port={port} user=postgres dbname=postgres", None),
    ("  host = 127.0.0.1\tport= {port}\nuser =postgres  ", None),
    ("host='127.0.0.1' port='{port}' user='postgres' dbname='a b/c%d'", None),
    (r"host=127.0.0.1 port={port} user=o\'n:e@% dbname=a\ b/c%d", None),
    (r"host=127.0.0.1 port={port} user='o\'n:e@%'", None),
    ("host=127.0.0.1 port={port} user=postgres password='' dbname=''", None),
    ("host=127.0.0.1 port={port} user=postgres dbname=", None),
    ("host=127.0.0.1 port={port} user=postgres password=", None),
    ("host=127.0.0.1\u{b}port={port}\u{c}user=postgres", None),
    ("host=127.0.0.1 port={port} user=postgres password=a\u{a0}b", None),
    ("host=127.0.0.1 port={port} user=postgres options='-c geqo=off -c search_path=a\\\\ b'", None),
    // What else is taken.
    ("postgresql://postgres@127.0.0.1:{port}/postgres?options=-c%20geqo%3Doff", None),
    (
        "postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=5&keepalives=0&tcp_user_timeout=0",
        None,
    ),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=-1&tcp_user_timeout=0", None),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&channel_binding=disable", None),
    ("postgresql://postgres:p:w@127.0.0.1:{port}/postgres", None),
    ("postgresql://postgres@127.0.0.1:{port}/postgres#x", None),
    // What is not.
    ("postgresql://postgres@127.0.0.1:{port}/postgres?client_encoding=UTF8", Some("client_encoding")),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?gssencmode=disable", Some("gssencmode")),
    (
        "postgresql://postgres@127.0.0.1:{port}/postgres?fallback_application_name=x",
        Some("fallback_application_name"),
    ),
    ("postgresql://postgres@127.0.0.1:{port}/postgres?sslcompression=0&sslsni=1", Some("sslcompression")),
    (
        "postgresql://postgres@127.0.0.1:{port}/postgres?ssl_min_protocol_version=TLSv1.2",
        Some("ssl_min_protocol_version"),
    ),
    ("host=127.0.0.1 port={port} user=postgres krbsrvname=x", Some("krbsrvname")),
    (
        "host=127.0.0.1 port={port} user=postgres target_session_attrs=prefer-standby",
        Some("target_session_attrs"),
    ),
    ("host=127.0.0.1 port=' {port} ' user=postgres", Some("port")),
    ("host=127.0.0.1 port={port} user=postgres connect_timeout=' 5 '", Some("connect_timeout")),
];

#[test]
fn what_psql_reaches_is_reached_or_refused_by_name() {
    let places = Places::new();
    let mut wrong = Vec::new();
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for (form, refused) in FORMS {
        if form.contains("::1") && !has_ipv6 {
            continue;
        }
        let url = places.filled(form);
        let (theirs, said) = places.psql(&url);
        let (ours, outcome) = places.ours(&url, &[]);
        let is_right = match refused {
            None => theirs.len() == 1 && ours == theirs,
            Some(part) => ours.is_empty() && outcome.code == Some(2) && outcome.stderr.contains(part),
        };
        // A form that psql does not take has no place in the table.
        if theirs.is_empty() || !is_right {
            wrong.push(format!(
                "{form}\n  psql {theirs:?} {}\n  ours {ours:?} {}",
                said.stderr, outcome.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// psql has these fill in what its argument leaves out. A server's database is said in one place.
#[test]
fn no_variable_fills_in_what_is_left_out() {
    let places = Places::new();
    let filled = |text: &str| places.filled(text);
    let variables = [
        ("PGHOST", "{dir2}"),
        ("PGHOSTADDR", "127.0.0.1"),
        ("PGPORT", "{port2}"),
        ("PGUSER", "o'n:e@%"),
        ("USER", "o'n:e@%"),
        ("LOGNAME", "o'n:e@%"),
        ("PGDATABASE", "template1"),
        ("PGPASSWORD", "topsecret"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/nowhere/root.crt"),
        ("PGSSLCERT", "/nowhere/client.crt"),
        ("PGSSLKEY", "/nowhere/client.key"),
        ("PGSSLNEGOTIATION", "direct"),
        ("PGCHANNELBINDING", "require"),
        ("PGREQUIRESSL", "1"),
        ("PGREQUIREAUTH", "scram-sha-256"),
        ("PGGSSENCMODE", "require"),
        ("PGAPPNAME", "theirs"),
        ("PGCONNECT_TIMEOUT", "nonsense"),
        ("PGOPTIONS", "-c nonsense"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGLOADBALANCEHOSTS", "nonsense"),
        ("PGSERVICE", "nothing"),
        ("PGSERVICEFILE", "/nowhere/service.conf"),
        ("PGCLIENTENCODING", "nonsense"),
        ("PGDATESTYLE", "nonsense"),
        ("PGTZ", "nonsense"),
        ("PGSYSCONFDIR", "/nowhere"),
    ]
    .map(|(name, value)| (name, filled(value)));
    let user = own_user();
    for (form, reached) in [
        ("postgresql://postgres@127.0.0.1:{port}/postgres", "user=postgres database=postgres"),
        ("postgresql:///postgres?host={dir}&port={port}", &*format!("user={user} database=postgres")),
        ("host={dir} port={port}", &*format!("user={user} database={user}")),
    ] {
        let (places, outcome) = places.ours(&filled(form), &variables);
        let place = (0, form.contains("{dir}"), reached.to_owned());
        assert_eq!(places, [place], "{form}: {outcome:?}");
        assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    }
    assert!(places.clusters[0].log().contains("application_name=cloacinactl"));
    assert!(!places.clusters[0].log().contains("application_name=theirs"));
    let directory = filled("{dir}");
    let (reached, outcome) = places.ours(&format!("host={directory}/gone user=u"), &variables);
    assert!(reached.is_empty());
    outcome.failed(1, &[&format!("database `u` at {directory}/gone/.s.PGSQL.5432 as user `u`")]);
    let (reached, outcome) = places.ours("user=u port=1", &variables);
    assert!(reached.is_empty());
    outcome.failed(1, &["/.s.PGSQL.1 as user `u`"]);
    assert!(!outcome.stderr.contains(&filled("{dir2}")), "{outcome:?}");
}
