//! All or nothing: what is left of uploads that are cut, that the database refuses, or that end with the server.

use std::fs;
use std::thread;

use super::upload::{site, stored};
use crate::support::http::Connection;
use crate::support::package::{head, package_of, upload};
use crate::support::server::Server;
use crate::support::{Seeded, wait_for};
use crate::tenants::site::Site;

/// Names in the home but for logs.
fn files(server: &Server) -> Vec<String> {
    let names = fs::read_dir(server.home()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn uploads_that_are_cut_leave_nothing() {
    let (site, key) = site();
    let bytes = package_of("a", "1.0.0", 300_000);
    site.server.wait_for_pool();
    let before = (files(&site.server), site.server.footprint().descriptors);
    let mut random = Seeded::new(7);
    for number in 0..100 {
        let cut = random.next() as usize % bytes.len();
        let fields = match number % 2 {
            0 => format!("Content-Length: {}\r\n", bytes.len()),
            _ => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        let mut connection = Connection::open(site.server.address);
        connection.send_what_goes(head("acme", &key, &fields).as_bytes());
        if number % 2 == 1 {
            connection.send_what_goes(format!("{:x}\r\n", bytes.len()).as_bytes());
        }
        connection.send_what_goes(&bytes[..cut]);
        drop(connection);
    }
    wait_for("all connections and files to be closed", || {
        (site.server.footprint().descriptors <= before.1).then_some(())
    });
    assert_eq!((files(&site.server), stored(&site)), (before.0, (0, 0)));
    // Nor is anything in the way of the whole one.
    upload(site.server.address, "acme", &key, &bytes).expect_status(201);
}

/// Has the database do this before it takes the second piece of a package.
fn at_second_piece(site: &Site, what: &str) {
    site.database.execute(&format!(
        "CREATE FUNCTION at_second_piece() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NEW; END $$;
         CREATE TRIGGER at_second_piece BEFORE INSERT ON cloacina_package_pieces FOR EACH ROW WHEN (NEW.number = 1)
             EXECUTE FUNCTION at_second_piece()"
    ));
}

#[test]
fn what_the_database_refuses_is_not_there() {
    for (code, status) in [("53100", 503), ("P0001", 500)] {
        let (site, key) = site();
        at_second_piece(&site, &format!("RAISE EXCEPTION 'no' USING ERRCODE = '{code}'"));
        let bytes = package_of("a", "1.0.0", 600_000);
        let answer = upload(site.server.address, "acme", &key, &bytes).expect_status(status);
        assert_eq!(answer.header("Retry-After").is_some(), status == 503);
        assert_eq!(stored(&site), (0, 0));
        site.database.execute("DROP TRIGGER at_second_piece ON cloacina_package_pieces");
        upload(site.server.address, "acme", &key, &bytes).expect_status(201);
        assert_eq!(stored(&site), (1, 3));
    }
}

#[test]
fn a_server_that_is_killed_leaves_nothing() {
    let (site, key) = site();
    at_second_piece(&site, "PERFORM pg_sleep(60)");
    let before = files(&site.server);
    let bytes = package_of("a", "1.0.0", 600_000);
    let mut connection = Connection::open(site.server.address);
    connection.send(head("acme", &key, &format!("Content-Length: {}\r\n", bytes.len())).as_bytes());
    connection.send(&bytes);
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    wait_for("the second piece to be written", || (site.database.value::<i64>(sleeping) == 1).then_some(()));
    site.server.signal("KILL");
    connection.expect_end();
    site.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    );
    assert_eq!((files(&site.server), stored(&site)), (before, (0, 0)));
}

#[test]
fn a_session_that_breaks_leaves_nothing_and_the_server_goes_on() {
    let (site, key) = site();
    at_second_piece(&site, "PERFORM pg_terminate_backend(pg_backend_pid())");
    let bytes = package_of("a", "1.0.0", 600_000);
    upload(site.server.address, "acme", &key, &bytes).expect_status(503);
    assert_eq!(stored(&site), (0, 0));
    site.database.execute("DROP TRIGGER at_second_piece ON cloacina_package_pieces");
    upload(site.server.address, "acme", &key, &bytes).expect_status(201);
}

/// Two servers, and uploads at the same moment: both have found nothing and written everything when they are let go on.
#[test]
fn of_two_at_the_same_moment_one_is_kept() {
    for (is_same, expected) in [(true, [200, 201]), (false, [201, 409])] {
        let (site, key) = site();
        let second = Server::start(&site.database);
        let bytes = package_of("a", "1.0.0", 300_000);
        let other = if is_same { bytes.clone() } else { package_of("a", "1.0.0", 300_001) };
        let mut client = site.database.client();
        let mut holder = client.transaction().unwrap();
        holder.batch_execute("SELECT FROM cloacina_tenants FOR UPDATE").unwrap();
        let mut statuses = thread::scope(|scope| {
            let servers = [(site.server.address, &bytes), (second.address, &other)];
            let uploads = servers.map(|(address, bytes)| {
                let key = &key;
                scope.spawn(move || upload(address, "acme", key, bytes).status)
            });
            wait_for("both to wait for the tenant's row", || {
                let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
                (site.database.value::<i64>(waiting) == 2).then_some(())
            });
            holder.commit().unwrap();
            uploads.map(|upload| upload.join().unwrap())
        });
        statuses.sort_unstable();
        assert_eq!(statuses, expected);
        assert_eq!(stored(&site), (1, 2));
        upload(site.server.address, "acme", &key, if statuses == [200, 201] { &bytes } else { &other });
        assert_eq!(stored(&site), (1, 2));
    }
}
