//! 100 MiB up and down: the server's memory does not grow with it, and a slow client holds nothing that others need.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::upload::{site, stored};
use crate::support::http::{Connection, request};
use crate::support::package::{head, package, package_of, upload, upload_as};
use crate::support::postgres::Database;
use crate::support::wait_for;
use crate::tenants::site::Site;

const MIB: usize = 1024 * 1024;

#[test]
fn memory_does_not_grow_with_a_package() {
    let (site, key) = site();
    let address = site.server.address;
    let get = |version: &str| {
        site.server
            .get(&format!("/tenants/acme/workflows/a/{version}/package"), Some(&key))
            .expect_status(200)
            .body
    };
    let small = package_of("a", "0.1.0", MIB);
    upload(address, "acme", &key, &small).expect_status(201);
    assert!(get("0.1.0") == small);
    let before = site.server.footprint().peak;
    // Of the largest size that is allowed, but for a few bytes of tar and gzip.
    let large = package_of("a", "1.0.0", 99 * MIB);
    assert!((99 * MIB..100 * MIB).contains(&large.len()));
    upload(address, "acme", &key, &large).expect_status(201);
    let after_upload = site.server.footprint().peak;
    assert!(get("1.0.0") == large);
    let after_download = site.server.footprint().peak;
    let form = [
        &b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n"[..],
        &package_of("a", "2.0.0", 99 * MIB),
        b"\r\n--b--\r\n",
    ];
    upload_as(address, "acme", &key, "multipart/form-data; boundary=b", &form.concat()).expect_status(201);
    let after_form = site.server.footprint().peak;
    let growth = [after_upload, after_download, after_form].map(|after| after - before);
    eprintln!("VmHWM grew from {before} KiB by {growth:?} KiB: an upload, a download, a form");
    assert!(growth.iter().all(|kib| *kib < 16 * 1024), "{growth:?}");
    assert_eq!(stored(&site).0, 3);
}

#[test]
fn slow_clients_hold_neither_workers_nor_sessions() {
    let (site, key) = site();
    let bytes = package_of("a", "1.0.0", 20 * MIB);
    upload(site.server.address, "acme", &key, &bytes).expect_status(201);
    let path = "/tenants/acme/workflows/a/1.0.0/package";
    // More of them than there are workers and sessions together, and none takes more than the sockets hold.
    let mut slow: Vec<_> = (0..40)
        .map(|_| {
            let mut client = TcpStream::connect(site.server.address).unwrap();
            client.write_all(&request("GET", path, Some(&key), None)).unwrap();
            let mut first = [0; 17];
            client.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
            client
        })
        .collect();
    let mut connection = Connection::open(site.server.address);
    for _ in 0..50 {
        connection.ask("GET", "/auth/whoami", Some(&key), None).expect_status(200);
    }
    assert_eq!(site.server.metric("cloacina_http_requests_in_flight", &[]), 0.0);
    // One goes on after all, to its end.
    let mut last = slow.pop().unwrap();
    last.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut rest = vec![0; bytes.len()];
    last.read_exact(&mut rest).unwrap();
    let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    rest.drain(..head);
    let mut end = vec![0; head];
    last.read_exact(&mut end).unwrap();
    rest.extend_from_slice(&end);
    assert!(rest == bytes);
}

/// What has been promised cannot be had any more, and a client must not take a part for the whole.
#[test]
fn a_download_ends_early_when_its_version_is_deleted() {
    let (site, key) = site();
    let bytes = package_of("a", "1.0.0", 20 * MIB);
    upload(site.server.address, "acme", &key, &bytes).expect_status(201);
    let mut client = TcpStream::connect(site.server.address).unwrap();
    client.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    client.write_all(&request("GET", "/tenants/acme/workflows/a/1.0.0/package", Some(&key), None)).unwrap();
    let mut first = [0; 17];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
    site.server.delete("/tenants/acme/workflows/a/1.0.0", &key).expect_status(200);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    let body = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(String::from_utf8_lossy(&rest[..body]).contains(&format!("Content-Length: {}\r\n", bytes.len())));
    assert!(rest.len() - body < bytes.len() && bytes.starts_with(&rest[body..]));
    site.server.log_line(&["cannot go on with a download"]);
}

/// A tenant, and a key of it that may write.
fn writer(site: &Site, tenant: &str) -> (String, String) {
    site.tenant(tenant);
    (tenant.to_owned(), site.key_of(tenant, "write").key().to_owned())
}

/// An upload whose client waits to send so many bytes, or has its answer, and the status of that.
fn begin(site: &Site, (tenant, key): &(String, String), length: usize) -> (Connection, u16) {
    let mut connection = Connection::open(site.server.address);
    let fields = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n");
    connection.send(head(tenant, key, &fields).as_bytes());
    let status = connection.receive("POST").status;
    (connection, status)
}

/// At most as many bodies are received and kept at once as there are places; a place is free when its answer is given.
#[test]
fn a_place_is_free_once_the_answer_is_given() {
    let site = Site::start();
    let bytes = package_of("a", "1.0.0", 200_000);
    let tenants = ["t1", "t2", "t3", "t4", "t5"].map(|name| writer(&site, name));
    let begin = |tenant: usize| begin(&site, &tenants[tenant], bytes.len());
    let mut uploads: Vec<_> = (0..8).map(|number| begin(number / 2)).collect();
    assert!(uploads.iter().all(|(_, status)| *status == 100));
    assert_eq!(begin(4).1, 503);
    for (connection, _) in &mut uploads {
        connection.send(&bytes);
    }
    let mut statuses: Vec<_> =
        uploads.iter_mut().map(|(connection, _)| connection.receive("POST").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 201, 201, 201, 201]);
    wait_for("a place", || (begin(4).1 == 100).then_some(()));
}

#[test]
fn a_tenant_leaves_places_for_others() {
    let site = Site::start();
    let (acme, other) = (writer(&site, "acme"), writer(&site, "other"));
    let bytes = package_of("a", "1.0.0", 200_000);
    let slow = [begin(&site, &acme, bytes.len()), begin(&site, &acme, bytes.len())];
    assert!(slow.iter().all(|(_, status)| *status == 100));
    let third = upload(site.server.address, "acme", &acme.1, &bytes).expect_status(503);
    assert!(third.header("Retry-After").is_some());
    assert!(third.error().starts_with("2 bodies to this path are on their way"), "{}", third.error());
    upload(site.server.address, "other", &other.1, &bytes).expect_status(201);
}

/// One after another is kept, but none for ever.
#[test]
fn an_upload_that_takes_long_stops_no_others_for_long() {
    let site = Site::start_with(Database::new(), ["--database-timeout", "2s"]);
    let (acme, other) = (writer(&site, "acme"), writer(&site, "other"));
    site.database.execute(
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN NEW; END $$;
         CREATE TRIGGER sleep BEFORE INSERT ON cloacina_package_pieces FOR EACH ROW WHEN (NEW.number = 1)
             EXECUTE FUNCTION sleep()",
    );
    let large = package_of("a", "1.0.0", 300_000);
    let (mut connection, status) = begin(&site, &acme, large.len());
    assert_eq!(status, 100);
    connection.send(&large);
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    wait_for("it to be kept", || (site.database.value::<i64>(sleeping) == 1).then_some(()));
    upload(site.server.address, "other", &other.1, &package("a", "1.0.0")).expect_status(201);
    connection.receive("POST").expect_status(503);
}
