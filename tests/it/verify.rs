//! `GET /auth/verify`, which proxies ask on behalf of other services.

use crate::keys::{INVALID, MALFORMED, insert_key, unknown_key};
use crate::permissions::forbidden;
use crate::support::cluster::Cluster;
use crate::support::http::{self, Connection, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// Asserts a 204 as proxies need it, and hands back id, name, permissions and tenant.
#[track_caller]
pub fn vouched_of(response: &Response) -> [String; 4] {
    assert_eq!((response.status, response.text()), (204, ""), "{response:#?}");
    // RFC 9110, 8.6: no length where there can be no body.
    for absent in ["Content-Length", "Content-Type", "WWW-Authenticate"] {
        assert_eq!(response.header(absent), None, "{response:#?}");
    }
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    ["X-Auth-Key-Id", "X-Auth-Key-Name", "X-Auth-Permissions", "X-Auth-Tenant"].map(|name| {
        let value = response.header(name).unwrap_or_else(|| panic!("no {name} in {response:#?}"));
        assert!(!value.is_empty(), "{name} is empty in {response:#?}");
        assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{name}: {value:?}");
        value.to_owned()
    })
}

/// The same for a key of the server's: id, name and permissions.
#[track_caller]
fn vouched(response: Response) -> [String; 3] {
    let [id, name, permissions, tenant] = vouched_of(&response);
    assert_eq!(tenant, "-");
    [id, name, permissions]
}

#[test]
fn a_permission_includes_the_lesser_ones() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (role, allowed) in
        [("read", &["read"][..]), ("write", &["read", "write"]), ("admin", &["read", "write", "admin"])]
    {
        let made = server.make_key(&admin, &format!(r#"{{"name":"{role}-er","role":"{role}"}}"#));
        let who = [made.id().to_owned(), format!("{role}-er"), role.to_owned()];
        assert_eq!(vouched(server.get("/auth/verify", Some(made.key()))), who);
        for required in ["read", "write", "admin"] {
            let response = server.get(&format!("/auth/verify?require={required}"), Some(made.key()));
            if allowed.contains(&required) {
                assert_eq!(vouched(response), who, "{required}");
            } else {
                forbidden(response);
            }
        }
    }
}

/// A key that the server remembers needs no worker.
#[test]
fn a_remembered_key_is_vouched_for_while_every_worker_waits() {
    const WORKERS: usize = 2;
    let database = Database::new();
    let server = Start::on(&database)
        .arguments(["--workers", &WORKERS.to_string(), "--queue", "1", "--database-timeout", "20s"])
        .serving();
    let admin = server.bootstrap_key();
    wait_for("the key to be remembered", || {
        let before = server.metric("cloacina_auth_cache_hits_total", &[]);
        server.get("/auth/verify", Some(&admin)).expect_status(204);
        (server.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
    });
    let lock = database.lock_keys();
    let listing = format!("GET /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {admin}\r\n\r\n");
    let mut waiting = Vec::new();
    // One in the queue beside those that the workers have.
    for count in 1..=WORKERS + 1 {
        let mut connection = Connection::open(server.address);
        connection.send(listing.as_bytes());
        waiting.push(connection);
        wait_for("the request to be under way", || {
            (server.metric("cloacina_http_requests_in_flight", &[]) == count as f64).then_some(())
        });
    }
    wait_for("a request to wait in the queue", || {
        (server.metric("cloacina_http_queue_depth", &[]) == 1.0).then_some(())
    });
    server.get("/auth/whoami", Some(&admin)).expect_status(503);
    vouched(server.get("/auth/verify?require=admin", Some(&admin)));
    drop(lock);
    for mut connection in waiting {
        connection.receive("GET").expect_status(200);
    }
}

#[test]
fn a_requirement_that_is_none_is_met_by_nobody() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let refused = || server.metric("cloacina_auth_failures_total", &[("reason", "permission")]);
    let before = refused();
    let odd = [
        "require=",
        "require",
        "require=root",
        "require=Read",
        "require=READ",
        "require=read,write",
        "require=%20read",
        "require=read%00",
        "require=read+",
        "require=%",
        "require=%ff",
        "require==read",
        "require=read&require=read",
        "require=read&require=admin",
        "require=read&require",
        "require=admin&x=1&%72equire=read",
        "REQUIRE=read",
        "Require=admin",
        "%52equire=read",
        "require=read&requirE=read",
        "REQUIRE",
    ];
    let unknown = |query: &str| {
        let response = server.get(&format!("/auth/verify?{query}"), Some(&admin));
        let challenge = response.header("WWW-Authenticate").map(str::to_owned);
        assert_eq!(challenge.as_deref(), Some(r#"Bearer realm="cloacina", error="insufficient_scope""#));
        response.expect(403, r#"{"error":"unknown permission in require"}"#);
    };
    odd.iter().for_each(|query| unknown(query));
    unknown(&format!("require={}", "read".repeat(500)));
    assert_eq!(refused() - before, odd.len() as f64 + 1.0);
    for query in ["", "x=1", "required=nonsense", "&&=&", "require=%72ead", "x=%&require=admin", "%ff=%fe"] {
        vouched(server.get(&format!("/auth/verify?{query}"), Some(&admin)));
    }
}

#[test]
fn names_travel_as_visible_ascii() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (name, encoded) in [
        ("ci-deploy", "ci-deploy"),
        ("a b", "a%20b"),
        (" ", "%20"),
        ("100%", "100%25"),
        ("%41", "%2541"),
        ("Gr\u{fc}\u{df}e", "Gr%C3%BC%C3%9Fe"),
        ("\u{1f511}", "%F0%9F%94%91"),
        ("a,b;c=\"d\"", "a,b;c=\"d\""),
        ("\u{a0}\u{2028}", "%C2%A0%E2%80%A8"),
    ] {
        let made = server.make_key(&admin, &serde_json::json!({ "name": name }).to_string());
        let [id, header, permissions] = vouched(server.get("/auth/verify", Some(made.key())));
        assert_eq!([&*id, &*header, &*permissions], [made.id(), encoded, "admin"]);
    }
    let longest = serde_json::json!({ "name": "\u{1f511}".repeat(255) }).to_string();
    let made = server.make_key(&admin, &longest);
    let [_, header, _] = vouched(server.get("/auth/verify", Some(made.key())));
    assert_eq!(header, "%F0%9F%94%91".repeat(255));

    // Nor may a text that another program stored be longer than that: proxies take only so many bytes of fields.
    for (number, unit, encoded) in [(0, "n", "n"), (1, "\u{1f511}", "%F0%9F%94%91"), (2, "\u{e9}", "%C3%A9")]
    {
        let key = format!("a-key-with-long-texts-{number}");
        insert_key(&database, &key, &unit.repeat(200_000), &unit.repeat(50_000));
        let [_, name, permissions] = vouched(server.get("/auth/verify", Some(&key)));
        assert_eq!([name, permissions], [encoded.repeat(255), encoded.repeat(255)]);
    }
    insert_key(&database, "nearly-an-admin", "n", &format!("admin{}", " ".repeat(300)));
    forbidden(server.get("/auth/keys", Some("nearly-an-admin")));

    // An older server may have stored what could not be a field value at all.
    for (number, (name, permissions, expected)) in [
        ("", "", ["-", "-"]),
        ("a\r\nX-Auth-Permissions: admin", "read\r\n", ["a%0D%0AX-Auth-Permissions:%20admin", "read%0D%0A"]),
        ("\t", "r\u{e9}ad", ["%09", "r%C3%A9ad"]),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("a-key-of-an-older-server-{number}");
        let id = insert_key(&database, &key, name, permissions);
        let [said_id, said_name, said_permissions] = vouched(server.get("/auth/verify", Some(&key)));
        assert_eq!([&*said_id, &*said_name, &*said_permissions], [&*id, expected[0], expected[1]]);
    }
}

#[test]
fn who_is_not_known_is_told_how_to_be() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, revoked) = server.create_key(&admin, "revoked");
    vouched(server.get("/auth/verify", Some(&revoked)));
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    for path in ["/auth/verify", "/auth/verify?require=admin", "/auth/verify?require=nonsense"] {
        for (key, body, challenge) in [
            (None, MALFORMED, r#"Bearer realm="cloacina""#),
            (Some(&*revoked), INVALID, r#"Bearer realm="cloacina", error="invalid_token""#),
            (Some(&*unknown_key()), INVALID, r#"Bearer realm="cloacina", error="invalid_token""#),
            (Some("nonsense"), INVALID, r#"Bearer realm="cloacina", error="invalid_token""#),
        ] {
            let response = server.get(path, key).expect(401, body);
            assert_eq!(response.header("WWW-Authenticate"), Some(challenge), "{path}");
            assert_eq!(response.header("Cache-Control"), Some("no-store"));
            assert!(response.headers.iter().all(|(name, _)| !name.starts_with("X-Auth-")), "{response:#?}");
        }
    }
}

/// Proxies take any 4xx but 401 and 403 for a fault of ours, and answer 500 or 503.
#[test]
fn a_malformed_key_is_never_more_than_401() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let admin = server.bootstrap_key();
    let line = |path: &str, value: &[u8]| {
        [format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: ").as_bytes(), value, b"\r\n\r\n"].concat()
    };
    let bytes = (0..=255).filter(|byte| ![b'\r', b'\n'].contains(byte)).collect::<Vec<u8>>();
    for path in ["/auth/verify", "/auth/verify?require=read", "/auth/whoami", "/auth/keys"] {
        let mut connection = Connection::open(server.address);
        for byte in bytes.iter().filter(|byte| **byte >= 0x7f || **byte < b' ') {
            let (ours, byte) = (format!("Bearer {admin}"), [*byte]);
            let middle = [b"Bearer a", &byte[..], b"b"].concat();
            let after = [ours.as_bytes(), &byte[..]].concat();
            for value in [&byte[..], &middle, &after] {
                // A tab around a value is no part of it (RFC 9110, 5.5).
                if byte == [b'\t'] && value == after {
                    continue;
                }
                connection.send(&line(path, value));
                connection.receive("GET").expect(401, MALFORMED);
            }
        }
        // The connection goes on, and lets in who has a key.
        connection.ask("GET", "/auth/whoami", Some(&admin), None).expect_status(200);
    }
    // One that is not even a head of ours any more.
    for length in [8_000, 17_000, 60_000] {
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(&line("/auth/verify", format!("Bearer {}", "x".repeat(length)).as_bytes()));
        let response = connection.receive("GET");
        assert_eq!(response.status, 401, "{length}");
        assert!(response.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer realm=")));
    }
    // Line ends are no part of any value: those stay malformed requests.
    for value in [&b"Bearer a\rb"[..], b"Bearer a\nb", b"Bearer a\r"] {
        let mut connection = Connection::open(server.address);
        connection.send(&line("/auth/verify", value));
        connection.receive("GET").expect_status(400);
        connection.expect_end();
    }
    server.expect_well("malformed keys");
}

/// Traefik's ForwardAuth asks with these, and with those of the client's fields that `authRequestHeaders` names.
#[test]
fn what_traefik_asks_with() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut connection = Connection::open(server.address);
    for (key, status) in [(&*admin, 204), ("nonsense", 401), ("caf\u{e9}", 401), ("a\x01b", 401)] {
        let long_uri = format!("/search?q={}", "%20".repeat(2_500));
        for uri in ["/", "/a?require=admin&require=x", "//b/../c?%zz=\\", "https://a/", &long_uri] {
            connection.send(
                format!(
                    "GET /auth/verify?require=write HTTP/1.1\r\nHost: cloacinactl:8080\r\n\
                     User-Agent: Go-http-client/1.1\r\nAuthorization: Bearer {key}\r\nX-Forwarded-Method: PUT\r\n\
                     X-Forwarded-Proto: https\r\nX-Forwarded-Host: service.example.com\r\n\
                     X-Forwarded-Uri: {uri}\r\nX-Forwarded-For: 192.0.2.7\r\nAccept-Encoding: gzip\r\n\r\n"
                )
                .as_bytes(),
            );
            let response = connection.receive("GET");
            assert_eq!(response.status, status, "{key:?} {uri:.40}");
        }
    }
}

#[test]
fn head_and_what_comes_after() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let reader = server.make_key(&admin, r#"{"name":"reader","role":"read"}"#);
    let mut connection = Connection::open(server.address);
    for round in 0..3 {
        let who = vouched(connection.ask("HEAD", "/auth/verify", Some(reader.key()), None));
        assert_eq!(who, [reader.id(), "reader", "read"], "round {round}");
        let refused = connection.ask("HEAD", "/auth/verify?require=admin", Some(reader.key()), None);
        assert_eq!((refused.status, refused.text()), (403, ""));
        let unknown = connection.ask("HEAD", "/auth/verify", Some("nonsense"), None);
        assert_eq!((unknown.status, unknown.text()), (401, ""));
        // Proxies keep the connection: an answer without a length must not swallow the next.
        vouched(connection.ask("GET", "/auth/verify", Some(reader.key()), None));
    }
    // Caddy and Traefik may pass on the client's own body length; it is read and means nothing.
    vouched(connection.ask("GET", "/auth/verify", Some(reader.key()), Some("not asked for")));
    vouched(connection.ask("GET", "/auth/verify", Some(reader.key()), None));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = connection.ask(method, "/auth/verify", Some(reader.key()), None);
        assert_eq!((refused.status, refused.header("Allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn without_a_database_nobody_is_vouched_for() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (_, key) = server.create_key(&admin, "known");
    vouched(server.get("/auth/verify", Some(&key)));
    cluster.stop_immediately();
    // The one the cache knows may pass until the server has noticed; one that it does not know never.
    let unavailable = |response: Response| {
        assert!(response.header("Retry-After").is_some(), "{response:#?}");
        assert_eq!(response.header("WWW-Authenticate"), None);
        response.expect(503, r#"{"error":"database unavailable"}"#);
    };
    unavailable(server.get("/auth/verify", Some(&unknown_key())));
    unavailable(server.get("/auth/verify?require=nonsense", Some(&unknown_key())));
    wait_for("the cache not to be trusted any more", || {
        let response = server.get("/auth/verify", Some(&key));
        (response.status != 204).then(|| unavailable(response))
    });
    http::exchange(server.address, &http::request("GET", "/auth/verify", None, None)).expect(401, MALFORMED);
    cluster.restart();
    wait_for("the database to be in use again", || {
        let response = server.get("/auth/verify", Some(&key));
        (response.status == 204).then(|| vouched(response))
    });
}
