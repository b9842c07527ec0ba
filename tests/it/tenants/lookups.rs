//! What the database is asked while a key is refused: for that key, and for nothing that the path or the query names.

use std::collections::HashMap;

use super::site::Site;
use crate::support::cluster::Cluster;
use crate::support::http::Connection;
use crate::support::postgres::Database;
use crate::support::wait_for;

/// So many requests stand out among what the server asks beside them, a few statements in a second.
const REQUESTS: usize = 60;
const BESIDE: usize = REQUESTS / 3;

const LOOKUP_OF_KEY: &str = "FROM api_keys WHERE key_hash = $1";

/// Who asks for what, and may not.
const REFUSED: [(&str, &str, &str); 14] = [
    ("other", "GET", "/tenants/acme/keys"),
    ("other", "GET", "/tenants/ghost/keys?limit=0"),
    ("other", "GET", "/tenants/ACME/keys"),
    ("other", "POST", "/tenants/acme/keys"),
    ("other", "DELETE", "/tenants/acme/keys/{id}"),
    ("other", "POST", "/tenants/ghost/keys/{id}/rotate"),
    ("other", "GET", "/auth/keys?tenant=acme"),
    ("other", "DELETE", "/auth/keys/{id}"),
    ("other", "POST", "/auth/keys/{id}/rotate"),
    ("other", "GET", "/auth/verify?tenant=acme"),
    ("reader", "GET", "/tenants/acme/keys"),
    ("reader", "DELETE", "/tenants/acme/keys/{id}"),
    ("server", "DELETE", "/tenants/acme/keys/{id}"),
    ("nowhere", "GET", "/tenants/nowhere/keys"),
];

/// How often each statement was carried out between two that the test itself sent, by PostgreSQL's log.
fn statements<'a>(log: &'a str, from: &str, to: &str) -> HashMap<&'a str, usize> {
    let (_, after) = log.split_once(from).unwrap_or_else(|| panic!("no {from} in {log}"));
    let (between, _) = after.split_once(to).unwrap_or_else(|| panic!("no {to} in {log}"));
    let mut counts = HashMap::new();
    // The name of a prepared statement is another one in each session.
    let of_execution = |text: &'a str| text.split_once("LOG:  execute ")?.1.split_once(": ");
    for entry in entries(between) {
        let text = match entry.split_once("LOG:  statement: ") {
            Some((_, text)) => text,
            None => match of_execution(entry) {
                Some((_, text)) => text,
                None => continue,
            },
        };
        *counts.entry(text).or_default() += 1;
    }
    counts
}

/// The entries of a log: each goes on in lines that begin with a tab.
fn entries(log: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = log.match_indices('\n').map(|(at, _)| at + 1).collect();
    starts.retain(|at| !log[*at..].starts_with('\t'));
    starts.push(log.len());
    starts.windows(2).map(|two| log[two[0]..two[1]].trim_end()).collect()
}

/// Asserts how often the key is looked up for each request that is refused, and that nothing else is.
fn expect_lookups(cluster: &Cluster, site: &Site, expected: std::ops::RangeInclusive<usize>) {
    ["acme", "other"].iter().for_each(|tenant| site.tenant(tenant));
    let id = site.key_of("acme", "write").id().to_owned();
    site.insert("a-key-of-nowhere", "admin", "tenant_id = 'nowhere'");
    let keys = HashMap::from([
        ("other", site.key_of("other", "admin").key().to_owned()),
        ("reader", site.key_of("acme", "read").key().to_owned()),
        ("server", site.key("write").key().to_owned()),
        ("nowhere", "a-key-of-nowhere".to_owned()),
    ]);
    // That a key was used is written once a minute, from here on not while requests are counted.
    for key in keys.values() {
        site.server.get("/auth/whoami", Some(key)).expect_status(200);
    }
    wait_for("the uses to be written", || {
        let unused = format!("SELECT count(*) FROM api_keys WHERE last_used_at IS NULL AND id <> '{id}'");
        (site.database.value::<i64>(&unused) == 0).then_some(())
    });
    let mut connection = Connection::open(site.server.address);
    for (whose, method, path) in REFUSED {
        let path = path.replace("{id}", &id);
        let place = format!("{whose} {method} {path}");
        let [from, to] =
            ["begin", "end"].map(|what| format!("SELECT '{} {what} {place}'", site.database.name()));
        site.database.execute(&from);
        for _ in 0..REQUESTS {
            connection.ask(method, &path, Some(&keys[whose]), None).expect_status(403);
        }
        site.database.execute(&to);
        let log = cluster.log();
        let counts = statements(&log, &from, &to);
        let (of_key, others): (Vec<_>, Vec<_>) =
            counts.iter().partition(|(text, _)| text.contains(LOOKUP_OF_KEY));
        let lookups = of_key.iter().map(|(_, count)| **count).sum();
        assert!(expected.contains(&lookups), "{place}: {lookups} lookups of the key");
        assert!(others.iter().all(|(_, count)| **count <= BESIDE), "{place}: {others:#?}");
    }
}

#[test]
fn a_refusal_looks_up_the_key_and_nothing_else() {
    let cluster = Cluster::start();
    cluster.set("log_statement = 'all'");
    let site = Site::start_with(Database::in_cluster(&cluster), ["--auth-cache-size", "0"]);
    expect_lookups(&cluster, &site, REQUESTS..=REQUESTS);
    drop(site);
    let site = Site::start_with(Database::in_cluster(&cluster), []);
    // What is remembered may be forgotten once, on a slow machine.
    expect_lookups(&cluster, &site, 0..=1);
}
