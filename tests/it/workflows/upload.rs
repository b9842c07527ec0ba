//! A package from its upload to its deletion, and who may do what to it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::http::{self, Connection, Response};
use crate::support::package::{archive, head, manifest, package, package_of, upload};
use crate::support::wait_for;
use crate::tenants::site::Site;

/// A site with the tenant acme, and a key of it that may write.
pub fn site() -> (Site, String) {
    let site = Site::start();
    site.tenant("acme");
    let key = site.key_of("acme", "write").key().to_owned();
    (site, key)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packages and pieces in the database.
pub fn stored(site: &Site) -> (i64, i64) {
    let count = |table: &str| site.database.value(&format!("SELECT count(*) FROM {table}"));
    (count("cloacina_packages"), count("cloacina_package_pieces"))
}

fn download(site: &Site, key: &str, path: &str, fields: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{fields}\r\n");
    http::exchange(site.server.address, request.as_bytes())
}

#[test]
fn a_package_comes_back_as_it_was_uploaded() {
    let (site, key) = site();
    let bytes = package_of("nightly", "1.2.0", 600_000);
    let made = upload(site.server.address, "acme", &key, &bytes).expect_status(201);
    let made = made.json();
    let id = made["package_id"].as_str().unwrap().to_owned();
    assert!(uuid::Uuid::try_parse(&id).is_ok());
    let hash = sha256(&bytes);
    let expected = json!({ "package_id": id, "tenant_id": "acme", "name": "nightly", "version": "1.2.0", "sha256": hash });
    assert_eq!(made, expected);
    assert_eq!(stored(&site), (1, 3));
    let again = upload(site.server.address, "acme", &key, &bytes).expect_status(200);
    assert_eq!(again.json(), expected);
    assert_eq!(stored(&site), (1, 3));
    site.server.log_line(&[
        "package uploaded",
        "\"workflow\":\"nightly\"",
        "\"version\":\"1.2.0\"",
        "acme-write",
    ]);

    let path = "/tenants/acme/workflows/nightly/1.2.0/package";
    let tag = format!("\"{hash}\"");
    let response = download(&site, &key, path, "").expect_status(200);
    assert!(response.body == bytes);
    for (name, value) in [
        ("ETag", tag.as_str()),
        ("Content-Type", "application/gzip"),
        ("Cache-Control", "private, no-cache"),
        ("Content-Disposition", "attachment; filename=\"nightly-1.2.0.tar.gz\""),
    ] {
        assert_eq!(response.header(name), Some(value));
    }
    let known = download(&site, &key, path, &format!("If-None-Match: \"x\", W/{tag}\r\n")).expect_status(304);
    assert_eq!((known.header("ETag"), known.body.len()), (Some(tag.as_str()), 0));
    download(&site, &key, path, "If-None-Match: \"x\"\r\n").expect_status(200);
    // HEAD has the same field lines, and the connection goes on after either.
    let mut connection = Connection::open(site.server.address);
    for method in ["HEAD", "GET", "HEAD", "GET"] {
        let answer = connection.ask(method, path, Some(&key), None).expect_status(200);
        assert_eq!(answer.header("Content-Length"), Some(bytes.len().to_string().as_str()));
        assert!(answer.body.len() == if method == "GET" { bytes.len() } else { 0 });
    }
}

#[test]
fn a_workflow_is_described_and_counted() {
    let (site, key) = site();
    let manifest = "[package]\nname = \"etl\"\nversion = \"0.1.0\"\n\n\
                    [[tasks]]\nid = \"a\"\ncommand = [\"true\"]\n\n\
                    [[tasks]]\nid = \"b\"\ncommand = [\"true\"]\ndependencies = [\"a\"]\n";
    let bytes = archive(manifest, &[]);
    let made = upload(site.server.address, "acme", &key, &bytes).expect_status(201).json();
    let shown = site.server.get("/tenants/acme/workflows/etl", Some(&key)).expect_status(200).json();
    let created_at = &shown["created_at"];
    assert_eq!(
        shown,
        json!({
            "tenant_id": "acme", "id": made["package_id"], "package_name": "etl", "version": "0.1.0",
            "description": null, "tasks": ["a", "b"], "created_at": created_at, "paused": false,
            "sha256": made["sha256"], "size": bytes.len(), "dependencies": { "a": [], "b": ["a"] },
            "schedules": [], "triggers": [], "versions": ["0.1.0"]
        })
    );
    let listed = site.server.get("/tenants/acme/workflows", Some(&key)).expect_status(200).json();
    let item = json!({
        "id": made["package_id"], "package_name": "etl", "version": "0.1.0", "description": null,
        "tasks": ["a", "b"], "created_at": created_at, "paused": false
    });
    assert_eq!(listed, json!({ "tenant_id": "acme", "workflows": [item] }));
    upload(site.server.address, "acme", &key, &package("other", "1.0.0")).expect_status(201);
    upload(site.server.address, "acme", &key, &package("other", "1.1.0")).expect_status(201);
    let tenant = site.server.get("/tenants/acme", Some(&key)).expect_status(200).json();
    let bytes: i64 =
        site.database.value("SELECT sum(size + length(manifest))::bigint FROM cloacina_packages");
    assert_eq!((&tenant["workflows"], &tenant["package_bytes"]), (&json!(2), &json!(bytes)));
    let all = site.server.get("/tenants", Some(&site.admin)).expect_status(200).json();
    assert_eq!(all["tenants"][0].get("workflows"), None);
}

#[test]
fn a_version_has_one_content_for_ever() {
    let (site, key) = site();
    let address = site.server.address;
    let (one, other) = (package("a", "1.0.0"), package_of("a", "1.0.0", 300_000));
    upload(address, "acme", &key, &one).expect_status(201);
    let exists = "version 1.0.0 of workflow 'a' exists with other content; a change needs another version";
    assert_eq!(upload(address, "acme", &key, &other).expect_status(409).error(), exists);
    let path = "/tenants/acme/workflows/a/1.0.0";
    let deleted = r#"{"status":"deleted","package_name":"a","version":"1.0.0"}"#;
    site.server.delete(path, &key).expect(200, deleted);
    site.server.log_line(&["package deleted", "\"version\":\"1.0.0\"", "acme-write"]);
    let not_found = "version '1.0.0' of workflow 'a' not found";
    assert_eq!(site.server.delete(path, &key).expect_status(404).error(), not_found);
    assert_eq!(site.server.get(&format!("{path}/package"), Some(&key)).expect_status(404).error(), not_found);
    let shown = site.server.get("/tenants/acme/workflows/a", Some(&key)).expect_status(404);
    assert_eq!(shown.error(), "workflow 'a' not found");
    let listed = site.server.get("/tenants/acme/workflows?all=true", Some(&key)).expect_status(200);
    assert_eq!(listed.json()["workflows"], json!([]));
    wait_for("the bytes to go", || (stored(&site) == (1, 0)).then_some(()));
    // Nor does anything else of it stay that may be large.
    let is_small = "SELECT manifest = '' AND tasks = '{}' AND NOT has_pieces FROM cloacina_packages";
    wait_for("its manifest to go", || site.database.value::<bool>(is_small).then_some(()));
    let existed = exists.replace("exists", "existed");
    assert_eq!(upload(address, "acme", &key, &other).expect_status(409).error(), existed);
    upload(address, "acme", &key, &one).expect_status(201);
    upload(address, "acme", &key, &one).expect_status(200);
    // Of all deletions one row is left, until the same bytes are there again.
    for _ in 0..3 {
        site.server.delete(path, &key).expect_status(200);
        upload(address, "acme", &key, &one).expect_status(201);
    }
    wait_for("the rows of earlier ones to go", || (stored(&site) == (1, 1)).then_some(()));
    // Also where nothing is left to be removed of it by then.
    site.server.delete(path, &key).expect_status(200);
    wait_for("the bytes to go again", || (stored(&site) == (1, 0)).then_some(()));
    wait_for("that to be written down", || site.database.value::<bool>(is_small).then_some(()));
    upload(address, "acme", &key, &one).expect_status(201);
    wait_for("the row of the deletion to go", || (stored(&site) == (1, 1)).then_some(()));
    // Another tenant's are its own.
    site.tenant("other");
    let theirs = site.key_of("other", "write").key().to_owned();
    upload(address, "other", &theirs, &other).expect_status(201);
    upload(address, "other", &theirs, &one).expect_status(409);
    let response = download(&site, &theirs, "/tenants/other/workflows/a/1.0.0/package", "");
    assert!(response.expect_status(200).body == other);
}

#[test]
fn a_removed_tenant_takes_its_packages_along() {
    let (site, key) = site();
    site.tenant("other");
    let theirs = site.key_of("other", "write").key().to_owned();
    for (tenant, key) in [("acme", &key), ("other", &theirs)] {
        for version in ["1.0.0", "1.1.0", "2.0.0"] {
            let bytes = package_of("a", version, 300_000);
            upload(site.server.address, tenant, key, &bytes).expect_status(201);
        }
    }
    site.server.delete("/tenants/acme/workflows/a/1.0.0", &key).expect_status(200);
    site.remove("acme");
    assert_eq!(stored(&site), (3, 6));
    assert_eq!(site.database.value::<i64>("SELECT count(*) FROM cloacina_workflows"), 1);
}

#[test]
fn a_workflow_is_paused_and_resumed_as_often_as_asked() {
    let (site, key) = site();
    upload(site.server.address, "acme", &key, &package("a", "1.0.0")).expect_status(201);
    for (what, paused) in
        [("resume", false), ("pause", true), ("pause", true), ("resume", false), ("pause", true)]
    {
        let expected = json!({ "name": "a", "paused": paused }).to_string();
        site.server.post(&format!("/tenants/acme/workflows/a/{what}"), &key, "").expect(200, &expected);
        let shown = site.server.get("/tenants/acme/workflows/a", Some(&key)).json();
        assert_eq!(shown["paused"], paused);
    }
    site.server.log_line(&["workflow paused", "\"workflow\":\"a\"", "acme-write"]);
    // It is the workflow's, whatever version there is.
    upload(site.server.address, "acme", &key, &package("a", "2.0.0")).expect_status(201);
    assert_eq!(site.server.get("/tenants/acme/workflows", Some(&key)).json()["workflows"][0]["paused"], true);
    for name in ["b", "%61", "a%2F", "-"] {
        let response = site.server.post(&format!("/tenants/acme/workflows/{name}/pause"), &key, "");
        assert_eq!(response.expect_status(404).error(), format!("workflow '{name}' not found"));
    }
}

#[test]
fn who_may_not_upload_hears_so_before_the_body() {
    let (site, _) = site();
    let reader = site.key_of("acme", "read").key().to_owned();
    site.tenant("other");
    let other = site.key_of("other", "admin").key().to_owned();
    for (key, status) in [(&*reader, 403), (&other, 403), ("clk_x", 401)] {
        let fields = "Content-Length: 50000000\r\nContent-Type: application/gzip\r\nExpect: 100-continue\r\n";
        let mut connection = Connection::open(site.server.address);
        connection.send(head("acme", key, fields).as_bytes());
        let answer = connection.receive("POST");
        assert_eq!(answer.status, status);
        assert!(answer.closes());
        connection.expect_end();
    }
    assert_eq!(stored(&site), (0, 0));
}

#[test]
fn every_problem_of_a_package_is_told() {
    let (site, key) = site();
    let wrong = manifest("a", "1.0").replace("only", "-");
    let response = upload(site.server.address, "acme", &key, &archive(&wrong, &[])).expect_status(422).json();
    let problems = response["problems"].as_array().unwrap();
    assert!(!problems.is_empty(), "{response}");
    for problem in problems {
        assert_eq!(problem["file"], "package.toml");
        assert!(problem["line"].is_u64() && problem["message"].is_string(), "{problem}");
    }
    assert!(response["error"].as_str().unwrap().contains("package.toml"), "{response}");
    for bytes in [&b"no archive"[..], &package("a", "1.0.0")[..60]] {
        let response = upload(site.server.address, "acme", &key, bytes).expect_status(422).json();
        assert_ne!(response["problems"], Value::Array(Vec::new()), "{response}");
    }
    assert_eq!(stored(&site), (0, 0));
}
