//! 100 MiB up and down: the server's memory does not grow with it, and a slow client holds nothing that others need.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::upload::{site, stored};
use crate::support::http::{Connection, request};
use crate::support::package::{head, package_of, upload, upload_as};
use crate::support::wait_for;

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

/// At most as many bodies are received and kept at once as there are places; a place is free when its answer is given.
#[test]
fn a_place_is_free_once_the_answer_is_given() {
    let (site, key) = site();
    let bytes = package_of("a", "1.0.0", 200_000);
    let begin = || {
        let mut connection = Connection::open(site.server.address);
        let fields = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", bytes.len());
        connection.send(head("acme", &key, &fields).as_bytes());
        let status = connection.receive("POST").status;
        (connection, status)
    };
    let mut uploads: Vec<_> = (0..8).map(|_| begin()).collect();
    assert!(uploads.iter().all(|(_, status)| *status == 100));
    assert_eq!(begin().1, 503);
    for (connection, _) in &mut uploads {
        connection.send(&bytes);
    }
    let mut statuses: Vec<_> =
        uploads.iter_mut().map(|(connection, _)| connection.receive("POST").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    wait_for("a place", || (begin().1 == 100).then_some(()));
}
