//! A link between a server and the database that is slow, and stops at the worst place: a question that has left and not
//! arrived, an answer that comes late, and nothing after it. What DELETE has answered for holds all the same.

use std::thread;
use std::time::Duration;

use crate::keys_command::keys;
use crate::servers::{LISTENS, Pair, passes, warm};
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::support::wire::Wire;

/// By which a server says that its cache is empty.
const CATCHES_UP: &str = "UPDATE auth_caches SET seen";
/// By which it asks whether it has missed something.
const ASKS: &str = "FROM api_key_changes) FROM auth_caches WHERE server = $1";
/// By which it looks a key up.
const LOOKS_UP: &str = "FROM api_keys WHERE key_hash = $1";
/// By which it draws the number of a change that is committed.
const ANNOUNCES: &str = "nextval('api_key_changes')";

/// Revokes on a thread of its own, since it may have to wait. The answer is what joining it gives.
fn revoking(server: &Server, admin: &str, id: &str) -> thread::JoinHandle<http::Response> {
    let address = server.address;
    let request = http::request("DELETE", &format!("/auth/keys/{id}"), Some(admin), None);
    thread::spawn(move || http::exchange(address, &request))
}

fn last_number(database: &Database) -> i64 {
    database.value("SELECT last_value FROM api_key_changes")
}

/// From the first moment when others may believe that the cache is empty, it has to be.
#[test]
fn a_server_that_has_caught_up_and_not_heard_so_trusts_nothing() {
    let pair = Pair::start();
    for _ in 0..3 {
        let (id, key) = pair.cached_key();
        let revocation = pair.wire.hold_when(CATCHES_UP, || revoking(&pair.one, &pair.admin, &id));
        pair.wire.let_question_through();
        revocation.join().unwrap().expect_status(200);
        assert!(!passes(&pair.wired, &key), "a revoked key is let in");
        pair.wire.let_all_through();
        warm(&pair.wired, &pair.admin);
    }
}

/// What it looks up between emptying its cache and saying so may be out of date by the time it has said so.
#[test]
fn a_server_remembers_nothing_while_it_catches_up() {
    let pair = Pair::start();
    for _ in 0..3 {
        let (first, _) = pair.one.create_key(&pair.admin, "first");
        let (second, key) = pair.one.create_key(&pair.admin, "second");
        warm(&pair.wired, &pair.admin);
        let before = last_number(&pair.database);
        let first = pair.wire.hold_when(CATCHES_UP, || revoking(&pair.one, &pair.admin, &first));
        assert!(passes(&pair.wired, &key) && passes(&pair.wired, &key), "it is not revoked yet");
        let second = revoking(&pair.one, &pair.admin, &second);
        wait_for("both changes to have their numbers", || {
            (last_number(&pair.database) >= before + 2).then_some(())
        });
        pair.wire.let_question_through();
        for revocation in [first, second] {
            revocation.join().unwrap().expect_status(200);
        }
        assert!(!passes(&pair.wired, &key), "a revoked key is let in");
        pair.wire.let_all_through();
        warm(&pair.wired, &pair.admin);
    }
}

/// An answer that comes late says how things were when it was asked for, and a server that waits for a lease to
/// end counts from before its coming.
#[test]
fn a_late_answer_is_no_longer_lease() {
    let pair = Pair::start();
    let (id, key) = pair.cached_key();
    pair.wire.hold(ASKS);
    pair.wire.let_question_through();
    let before = last_number(&pair.database);
    let revocation = revoking(&pair.one, &pair.admin, &id);
    wait_for("the change to have its number", || (last_number(&pair.database) > before).then_some(()));
    // The answer says that nothing has changed. It is so late, and the last thing that is heard.
    thread::sleep(Duration::from_millis(700));
    pair.wire.let_answer_through();
    revocation.join().unwrap().expect_status(200);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
    pair.wire.cut();
    warm(&pair.wired, &pair.admin);
}

/// The database says how much of its life a key has left, and that answer comes late.
#[test]
fn a_late_lookup_lengthens_no_life() {
    let pair = Pair::start();
    warm(&pair.wired, &pair.admin);
    let made = pair.one.make_key(&pair.admin, r#"{"name":"brief","expires_in":"4s"}"#);
    let mut early = Connection::open(pair.wired.address);
    let request = http::request("GET", "/auth/keys?limit=nonsense", Some(made.key()), None);
    pair.wire.hold_when(LOOKS_UP, || early.send(&request));
    pair.wire.let_question_through();
    thread::sleep(Duration::from_millis(1500));
    pair.wire.let_all_through();
    assert_eq!(early.receive("GET").status, 400, "it had a life when it was looked up");
    wait_for("the key to end", || {
        let has_ended =
            format!("SELECT expires_at <= clock_timestamp() FROM api_keys WHERE id = '{}'", made.id());
        let has_ended: bool = pair.database.value(&has_ended);
        let passes = passes(&pair.wired, made.key());
        assert!(!(has_ended && passes), "a key that has ended is let in");
        has_ended.then_some(())
    });
}

/// A client that gives up and asks another server must not be told that all is done while it is not.
#[test]
fn a_revocation_that_is_repeated_elsewhere_waits_as_well() {
    let pair = Pair::start();
    let third = Server::start(&pair.database);
    let (id, key) = pair.cached_key();
    assert!(pair.wire.go_dead(LISTENS) >= 1);
    let first = revoking(&pair.one, &pair.admin, &id);
    wait_for("the key to be revoked", || {
        pair.database
            .value::<bool>(&format!("SELECT revoked_at IS NOT NULL FROM api_keys WHERE id = '{id}'"))
            .then_some(())
    });
    third.delete(&format!("/auth/keys/{id}"), &pair.admin).expect_status(404);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
    first.join().unwrap().expect_status(200);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
}

/// What it changes itself it need not hear of.
#[test]
fn a_server_without_a_link_knows_of_its_own_changes() {
    let pair = Pair::start();
    let (revoked_id, revoked) = pair.cached_key();
    let (rotated_id, rotated) = pair.cached_key();
    assert!(pair.wire.go_dead(LISTENS) >= 1);
    pair.wired.delete(&format!("/auth/keys/{revoked_id}"), &pair.admin).expect_status(200);
    assert!(!passes(&pair.wired, &revoked), "a revoked key is let in");
    warm(&pair.wired, &rotated);
    assert!(pair.wire.go_dead(LISTENS) >= 1);
    pair.wired.post(&format!("/auth/keys/{rotated_id}/rotate"), &pair.admin, "{}").expect_status(201);
    assert!(!passes(&pair.wired, &rotated), "a key that was rotated is let in");
}

/// Each of them ends a key, and none of them is done before every server knows.
#[test]
fn every_way_to_end_a_key_waits_for_a_link_that_is_dead() {
    type End<'a> = &'a (dyn Fn(&str, &str) + Sync);
    let pair = Pair::start();
    let ways: [End<'_>; 5] = [
        &|_, key| drop(pair.one.delete("/auth/keys/self", key).expect_status(200)),
        &|id, _| {
            let path = format!("/auth/keys/{id}/rotate");
            pair.one.post(&path, &pair.admin, "{}").expect_status(201);
        },
        &|id, _| assert_eq!(keys(&pair.database, &["revoke", id]).code, Some(0)),
        &|id, _| assert_eq!(keys(&pair.database, &["rotate", id]).code, Some(0)),
        // Of one that is revoked already.
        &|id, _| {
            pair.database.execute(&format!("UPDATE api_keys SET revoked_at = now() WHERE id = '{id}'"));
            assert_eq!(keys(&pair.database, &["revoke", id]).code, Some(1));
        },
    ];
    let made: Vec<_> = ways.iter().map(|_| pair.one.create_key(&pair.admin, "shared")).collect();
    made.iter().for_each(|(_, key)| warm(&pair.wired, key));
    assert!(pair.wire.go_dead(LISTENS) >= 1);
    thread::scope(|scope| {
        for (number, (end, (id, key))) in ways.iter().zip(&made).enumerate() {
            let wired = &pair.wired;
            scope.spawn(move || {
                end(id, key);
                assert!(!passes(wired, key), "way {number}: a key that has ended is let in");
            });
        }
    });
}

/// The change is committed, and its maker loses the database before it can draw a number. Others hear of it all the same.
#[test]
fn a_change_is_heard_of_though_its_maker_is_cut_off() {
    type End = fn(&Server, &str, &str) -> thread::JoinHandle<http::Response>;
    let rotating: End = |server, admin, id| {
        let address = server.address;
        let path = format!("/auth/keys/{id}/rotate");
        let request = http::request("POST", &path, Some(admin), Some("{}"));
        thread::spawn(move || http::exchange(address, &request))
    };
    for (end, status) in [(revoking as End, 200), (rotating, 201)] {
        let pair = Pair::start();
        let other = Start::on(&pair.database).serving();
        let (id, key) = pair.one.create_key(&pair.admin, "shared");
        warm(&other, &key);
        let answer = pair.wire.hold_when(ANNOUNCES, || end(&pair.wired, &pair.admin, &id));
        pair.wire.cut_for_good();
        answer.join().unwrap().expect_status(status);
        assert!(!passes(&other, &key), "a revoked key is let in");
    }
}

/// The same where no other server hears of it: each of them has its lease, and that has to end.
#[test]
fn a_maker_that_is_cut_off_sits_the_leases_out() {
    let pair = Pair::start();
    let wire = Wire::start(pair.database.host_and_port());
    let maker = Start::without_database().database_url(&pair.database.url_through(wire.port)).serving();
    let (id, key) = pair.cached_key();
    assert!(pair.wire.go_dead(LISTENS) >= 1);
    let answer = wire.hold_when(ANNOUNCES, || revoking(&maker, &pair.admin, &id));
    wire.cut_for_good();
    answer.join().unwrap().expect_status(200);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
}

/// Nothing comes any more in the middle of a question, which is no reason to wait for an answer for ever.
#[test]
fn a_link_that_goes_silent_in_the_middle_is_made_anew() {
    let pair = Pair::start();
    let (id, key) = pair.cached_key();
    pair.wire.hold(ASKS);
    pair.one.delete(&format!("/auth/keys/{id}"), &pair.admin).expect_status(200);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
    warm(&pair.wired, &pair.admin);
    let (id, key) = pair.cached_key();
    pair.wire
        .hold_when(CATCHES_UP, || revoking(&pair.one, &pair.admin, &id))
        .join()
        .unwrap()
        .expect_status(200);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
    warm(&pair.wired, &pair.admin);
}

/// A sequence that was restarted, or that a copy of the database did not bring along, gives out numbers that servers have
/// seen already; a server that is cut off must not count as one that knows of the change.
#[test]
fn numbers_that_come_again_make_no_server_count_as_told() {
    for statement in ["ALTER SEQUENCE api_key_changes RESTART", "SELECT setval('api_key_changes', 100, true)"]
    {
        let pair = Pair::start();
        pair.database.execute("SELECT setval('api_key_changes', 500, true)");
        let (_, shared) = pair.one.create_key(&pair.admin, "shared");
        wait_for("the servers to see the number", || {
            pair.database.value::<bool>("SELECT bool_and(seen = 500) FROM auth_caches").then_some(())
        });
        warm(&pair.wired, &shared);
        assert!(pair.wire.go_dead(LISTENS) >= 1);
        pair.database.execute(statement);
        // Whether the servers have taken the number in or not: those that cannot are waited for.
        pair.one.delete("/auth/keys/self", &shared).expect_status(200);
        assert!(!passes(&pair.wired, &shared), "{statement}: a revoked key is let in");
    }
}

/// The same where every server has taken the restarted number in before its link went dead.
#[test]
fn a_restarted_number_is_not_seen_before_it_is_drawn() {
    let pair = Pair::start();
    pair.database.execute("SELECT setval('api_key_changes', 500, true)");
    wait_for("the servers to see the number", || {
        pair.database.value::<bool>("SELECT bool_and(seen = 500) FROM auth_caches").then_some(())
    });
    pair.database.execute("ALTER SEQUENCE api_key_changes RESTART");
    wait_for("the servers to see the restart", || {
        pair.database.value::<bool>("SELECT bool_and(seen < 500) FROM auth_caches").then_some(())
    });
    let (_, key) = pair.cached_key();
    assert!(pair.wire.go_dead(LISTENS) >= 1);
    pair.one.delete("/auth/keys/self", &key).expect_status(200);
    assert!(!passes(&pair.wired, &key), "a revoked key is let in");
}
