//! A tenant's key that is revoked, or whose tenant is removed, on one server: no other lets it in from the moment when
//! the answer is there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::site::{Site, remember};
use crate::keys::{INVALID, hash};
use crate::servers::{LISTENS, Pair};
use crate::support::Seeded;
use crate::support::http::{self, Connection};
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Start};

const VERIFY: &str = "/auth/verify?tenant=*";

/// Whether the key passes.
#[track_caller]
fn passes(server: &Server, key: &str) -> bool {
    match server.get(VERIFY, Some(key)).status {
        204 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

/// The answer to a removal is to come in this time, while another server is silent as well.
const LEASE_AND_SLACK: Duration = Duration::from_secs(8);

#[track_caller]
fn remove(server: &Server, admin: &str, tenant: &str) {
    let began = Instant::now();
    server.delete(&format!("/tenants/{tenant}"), admin).expect_status(200);
    assert!(began.elapsed() < LEASE_AND_SLACK, "DELETE took {:?}", began.elapsed());
}

#[test]
fn on_two_servers() {
    let site = Site::start();
    let other = Server::start(&site.database);
    let servers = [&site.server, &other];
    let mut late = 0;
    for round in 0..20 {
        let (here, there) = (servers[round % 2], servers[(round + 1) % 2]);
        site.tenant("acme");
        let keys: Vec<Made> =
            ["read", "write", "admin"].iter().map(|permissions| site.key_of("acme", permissions)).collect();
        let use_all =
            || keys.iter().for_each(|key| servers.iter().for_each(|server| remember(server, key.key())));
        use_all();
        let revoked = format!("/tenants/acme/keys/{}", keys[0].id());
        here.delete(&revoked, keys[2].key()).expect_status(200);
        late += servers.iter().filter(|server| passes(server, keys[0].key())).count();
        for key in &keys[1..] {
            servers.iter().for_each(|server| remember(server, key.key()));
        }
        remove(there, &site.admin, "acme");
        for key in &keys {
            late += servers.iter().filter(|server| passes(server, key.key())).count();
            here.get("/auth/whoami", Some(key.key())).expect(401, INVALID);
        }
    }
    assert_eq!(late, 0);
    // A tenant that has the name again has none of the keys.
    site.tenant("acme");
    let old = site.key_of("acme", "admin");
    remember(&other, old.key());
    remove(&site.server, &site.admin, "acme");
    site.tenant("acme");
    let new = site.key_of("acme", "admin");
    for server in servers {
        assert!(!passes(server, old.key()) && passes(server, new.key()));
        server.get("/tenants/acme", Some(old.key())).expect(401, INVALID);
        let listed = server.get("/tenants/acme/keys", Some(new.key())).expect_status(200).json();
        assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn while_the_other_server_s_link_fails() {
    let Pair { one, wired, wire, admin, database } = Pair::start();
    let site = Site { database, server: one, admin };
    for (number, failure) in ["cut", "dead", "frozen"].into_iter().enumerate() {
        let tenant = format!("tenant_{number}");
        site.tenant(&tenant);
        let key = site.key_of(&tenant, "admin");
        remember(&wired, key.key());
        match failure {
            "cut" => wire.cut(),
            "dead" => assert!(wire.go_dead(LISTENS) >= 1),
            _ => wired.signal("STOP"),
        }
        remove(&site.server, &site.admin, &tenant);
        let mut early = Connection::open(wired.address);
        early.send(&http::request("GET", VERIFY, Some(key.key()), None));
        wired.signal("CONT");
        let status = early.receive("GET").status;
        assert!([401, 503].contains(&status), "{failure}: {status}");
        assert!(!matches!(wired.get(VERIFY, Some(key.key())).status, 204), "{failure}");
        remember(&wired, &site.admin);
    }
}

/// The lookup was answered while the tenant was still there, and comes in after its removal.
#[test]
fn a_lookup_under_way_does_not_bring_a_removed_tenant_s_key_back() {
    let database = Database::new();
    let proxy = Proxy::start(database.host_and_port());
    let server = Start::without_database().database_url(&database.url_through(proxy.port)).serving();
    let admin = server.bootstrap_key();
    let site = Site { database, server, admin };
    for _ in 0..3 {
        site.tenant("acme");
        let key = site.key_of("acme", "admin");
        proxy.hold_answer_to(&hash(key.key()));
        let mut early = Connection::open(site.server.address);
        early.send(&http::request("GET", VERIFY, Some(key.key()), None));
        proxy.wait_for_answer();
        remove(&site.server, &site.admin, "acme");
        proxy.release();
        let early = early.receive("GET").status;
        assert!([204, 401].contains(&early), "{early}");
        for _ in 0..20 {
            assert!(!passes(&site.server, key.key()));
        }
    }
}

/// Threads that use keys and remove their tenants at random, on two servers: a key that was let in had been asked with
/// before the removal was answered, and none is ever half removed.
#[test]
fn use_and_removal_at_random() {
    let site = Site::start();
    let other = Server::start(&site.database);
    let addresses = [site.server.address, other.address];
    let (uses, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for round in 0..2 {
        let tenants: Vec<String> = (0..8).map(|number| format!("tenant_{round}_{number}")).collect();
        tenants.iter().for_each(|tenant| site.tenant(tenant));
        let keys: Vec<String> =
            tenants.iter().map(|tenant| site.key_of(tenant, "read").key().to_owned()).collect();
        let removed: Vec<AtomicBool> = tenants.iter().map(|_| AtomicBool::new(false)).collect();
        let left = AtomicUsize::new(tenants.len());
        std::thread::scope(|scope| {
            for thread in 0..12_u64 {
                let (site, tenants, keys, removed, left) = (&site, &tenants, &keys, &removed, &left);
                let (uses, late) = (&uses, &late);
                scope.spawn(move || {
                    let mut seeded = Seeded::new(0x7E4A_0000 + round * 100 + thread);
                    let mut connections = addresses.map(Connection::open);
                    while left.load(Ordering::Acquire) > 0 {
                        let chosen = usize::try_from(seeded.next() % keys.len() as u64).unwrap();
                        let connection = &mut connections[usize::from(seeded.next().is_multiple_of(2))];
                        if seeded.next().is_multiple_of(50) {
                            let path = format!("/tenants/{}", tenants[chosen]);
                            let status = connection.ask("DELETE", &path, Some(&site.admin), None).status;
                            assert!([200, 404].contains(&status), "{status}");
                            // Of two at once, the one that is told 404 does not wait for other servers.
                            if status == 200 && !removed[chosen].swap(true, Ordering::AcqRel) {
                                left.fetch_sub(1, Ordering::AcqRel);
                            }
                        } else {
                            let was_removed = removed[chosen].load(Ordering::Acquire);
                            let status = connection.ask("GET", VERIFY, Some(&keys[chosen]), None).status;
                            assert!([204, 401].contains(&status), "{status}");
                            late.fetch_add(usize::from(was_removed && status == 204), Ordering::Relaxed);
                            uses.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    }
    assert_eq!(late.into_inner(), 0);
    eprintln!("{} uses, none late", uses.into_inner());
}
