//! Another service behind a real nginx and a real Caddy that ask the server about every key, with the configurations
//! of `scripts/deploy/`.

use crate::support::front::{CLIENT, Front, Kind, with_both};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::upstream::Upstream;
use crate::support::wait_for;

with_both! {
    a_service_learns_who_asks
    nobody_says_who_they_are_themselves
    bodies_of_every_form_get_through
    an_upload_is_neither_held_back_nor_limited
    long_heads_lock_nobody_out
    malformed_keys_are_never_a_fault_of_ours
    no_verdict_lets_nobody_in
}

/// A server, a service that its keys protect, and the proxy before both.
struct Protected {
    database: Database,
    server: Server,
    service: Upstream,
    front: Front,
}

impl Protected {
    fn by(kind: Kind) -> Protected {
        let database = Database::new();
        let server = Server::start(&database);
        let service = Upstream::start();
        let front = Front::protecting(kind, server.address, service.address);
        Protected { database, server, service, front }
    }

    /// The field line of a new key, and its id.
    fn key(&self, name: &str, permissions: &str) -> (String, String) {
        let body = serde_json::json!({ "name": name, "permissions": permissions }).to_string();
        let made =
            self.server.post("/auth/keys", &self.server.bootstrap_key(), &body).expect_status(201).json();
        let text = |field: &str| made[field].as_str().unwrap();
        (format!("Authorization: Bearer {}", text("key")), text("id").to_owned())
    }
}

fn a_service_learns_who_asks(kind: Kind) {
    let site = Protected::by(kind);
    let (reader, reader_id) = site.key("a reader", "read");
    let (writer, writer_id) = site.key("writer", "write");
    let (admin, admin_id) = site.key("100% admin", "admin");
    for (key, id, name, permissions) in [
        (&reader, &reader_id, "a%20reader", "read"),
        (&writer, &writer_id, "writer", "write"),
        (&admin, &admin_id, "100%25%20admin", "admin"),
    ] {
        // The client's own query is the service's, and no part of the question to the server.
        let answer = site.front.ask("GET /a/b?require=admin&require=x", &[key]).expect_status(200);
        assert_eq!(answer.text(), "seen");
        let seen = site.service.take_one();
        assert_eq!(seen.line, "GET /a/b?require=admin&require=x HTTP/1.1");
        let mut fields = seen.fields_like("x-auth");
        fields.sort_unstable();
        let expected = [
            ("x-auth-key-id", &**id),
            ("x-auth-key-name", name),
            ("x-auth-permissions", permissions),
            ("x-auth-tenant", "-"),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(seen.fields_like("authorization"), []);
        assert_eq!(seen.fields_like("x-forwarded-for"), [("x-forwarded-for".to_owned(), CLIENT)]);
    }

    // Writing takes more than a key that may read; the refusal is the server's.
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        site.front
            .ask(&format!("{method} /a?require=read"), &[&reader, "Content-Length: 0"])
            .expect_status(403);
        assert_eq!(site.service.take_seen().len(), 0, "{method}");
        site.front.ask(&format!("{method} /a"), &[&writer, "Content-Length: 0"]).expect_status(200);
        site.service.take_one();
    }
    site.front.ask("HEAD /a", &[&reader]).expect_status(200);
    site.service.take_one();

    let long = format!("Authorization: Bearer {}", "x".repeat(7000));
    for (fields, statuses) in [
        ([].as_slice(), [401].as_slice()),
        (&["Authorization: Bearer clk_nonsense"], &[401]),
        (&["Authorization: Basic Y2xrOmNsaw=="], &[401]),
        (&["Authorization:"], &[401]),
        (&["Authorization: Bearer caf\u{e9}"], &[401]),
        (&[&long], &[401]),
        (&["X-Api-Key: x", "Cookie: a=b"], &[401]),
        // nginx calls that malformed, which it is.
        (&[&reader, &reader], &[400, 401]),
        (&[&reader, "authorization: Bearer x"], &[400, 401]),
    ] {
        let refused = site.front.ask("GET /a", fields);
        assert!(statuses.contains(&refused.status), "{fields:?}: {refused:?}");
        if refused.status == 401 {
            let challenge = refused.header("WWW-Authenticate").unwrap_or_else(|| panic!("{refused:#?}"));
            assert!(challenge.starts_with("Bearer realm=\"cloacina\""), "{challenge}");
        }
        assert_eq!(site.service.take_seen().len(), 0, "{fields:?}");
    }
    // The question has an address of its own in nginx, which is nobody else's.
    assert_ne!(site.front.ask("GET /_verify", &[]).status, 204);

    site.server.delete(&format!("/auth/keys/{reader_id}"), &site.server.bootstrap_key()).expect_status(200);
    let refused = site.front.ask("GET /a", &[&reader]).expect_status(401);
    assert!(refused.header("WWW-Authenticate").unwrap().contains("error=\"invalid_token\""), "{refused:#?}");
    assert_eq!(site.service.take_seen().len(), 0);
}

/// Ways to write the four fields that some service could take for the real ones.
const FORGED: &[&str] = &[
    "X-Auth-Key-Id: forged",
    "x-auth-key-id: forged",
    "X-AUTH-KEY-ID: forged",
    "X_Auth_Key_Id: forged",
    "X-Auth_Key-Id: forged",
    "X.Auth.Key.Id: forged",
    "X~Auth~Key~Id: forged",
    "X-Auth-Key-Name: forged",
    "X_AUTH_KEY_NAME: forged",
    "x-auth-key_name: forged",
    "X-Auth-Permissions: admin,forged",
    "X-auth-Permissions: admin,forged",
    "X_Auth_Permissions: admin,forged",
    "X-Auth_Permissions: admin,forged",
    "X!Auth!Permissions: admin,forged",
    "X-Auth-Tenant: forged",
    "x-auth-tenant: forged",
    "X_AUTH_TENANT: forged",
    "X-Auth_Tenant: forged",
    "X.Auth.Tenant: forged",
    "X-Auth-Role: forged",
    "Connection: X-Auth-Key-Id, X-Auth-Key-Name, X-Auth-Permissions, X-Auth-Tenant",
];

fn nobody_says_who_they_are_themselves(kind: Kind) {
    let site = Protected::by(kind);
    let (key, id) = site.key("honest", "read");
    let expected = [
        ("x-auth-key-id", &*id),
        ("x-auth-key-name", "honest"),
        ("x-auth-permissions", "read"),
        ("x-auth-tenant", "-"),
    ];
    let ours = |fields: Vec<(String, &str)>| {
        // Not one of the four, so nobody takes it for one: nginx passes it on.
        let mut fields: Vec<_> = fields.into_iter().filter(|(name, _)| name != "x-auth-role").collect();
        fields.sort_unstable();
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value)));
    };
    for forged in FORGED {
        for times in 1..=2 {
            let mut fields = vec![&*key];
            fields.extend(vec![*forged; times]);
            site.front.ask("GET /", &fields).expect_status(200);
            ours(site.service.take_one().fields_like("x-auth"));
            // Before the key as well.
            fields.rotate_left(1);
            site.front.ask("GET /", &fields).expect_status(200);
            ours(site.service.take_one().fields_like("x-auth"));
            let refused = site.front.ask("GET /", &fields[..times]);
            assert_eq!(refused.status, 401, "{forged}");
            assert_eq!(site.service.take_seen().len(), 0, "{forged}");
        }
    }
    let mut all = FORGED.to_vec();
    all.push(&key);
    site.front.ask("GET /", &all).expect_status(200);
    ours(site.service.take_one().fields_like("x-auth"));

    // A server that says yes without saying who: still no word of the client's own gets through.
    let careless = Upstream::start();
    careless.answer_with("HTTP/1.1 204 No Content\r\n\r\n");
    let front = Front::protecting(kind, careless.address, site.service.address);
    front.ask("GET /", &all).expect_status(200);
    let seen = site.service.take_one();
    for name in ["x-auth-key", "x-auth-permissions", "x-auth-tenant"] {
        assert!(!format!("{:?}", seen.fields_like(name)).contains("forged"), "{seen:#?}");
    }
}

fn bodies_of_every_form_get_through(kind: Kind) {
    let site = Protected::by(kind);
    let (key, _) = site.key("writer", "write");
    let mut connection = site.front.connect();
    // All on one connection, so that a body which somebody left unread would show in the next request.
    for round in 0..2 {
        connection.send(&site.front.request("POST /plain", &[&key, "Content-Length: 10"], "0123456789"));
        connection.receive("POST").expect_status(200);
        let seen = site.service.take_one();
        assert_eq!((&*seen.line, seen.body_bytes), ("POST /plain HTTP/1.1", 10), "round {round}");

        let chunked = "4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\n\r\n";
        connection.send(&site.front.request("PUT /chunked", &[&key, "Transfer-Encoding: chunked"], chunked));
        connection.receive("PUT").expect_status(200);
        let seen = site.service.take_one();
        assert_eq!((&*seen.line, seen.body_bytes), ("PUT /chunked HTTP/1.1", 10), "round {round}");

        for (framing, body) in [("Content-Length: 10", "0123456789"), ("Transfer-Encoding: chunked", chunked)]
        {
            let patient = [&*key, framing, "Expect: 100-continue"];
            connection.send(&site.front.request("POST /expects", &patient, ""));
            assert_eq!(connection.receive("POST").status, 100, "{framing}");
            connection.send(body.as_bytes());
            // Caddy says it once for itself and once for the service.
            let mut answer = connection.receive("POST");
            while answer.status == 100 {
                answer = connection.receive("POST");
            }
            answer.expect_status(200);
            assert_eq!(site.service.take_one().body_bytes, 10, "{framing}");
        }
    }
    // Without a good key nobody is asked for a body, and what is sent of it reaches nobody.
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let mut connection = site.front.connect();
        connection.send(&site.front.request("POST /expects", &[framing, "Expect: 100-continue"], ""));
        connection.receive("POST").expect_status(401);
        let mut connection = site.front.connect();
        connection.send(&site.front.request("POST /", &[framing], "4\r\n0123\r\n0\r\n\r\n"));
        connection.receive("POST").expect_status(401);
    }
    assert_eq!(site.service.take_seen().len(), 0);
    assert_eq!(site.service.body_bytes(), 80);
}

fn an_upload_is_neither_held_back_nor_limited(kind: Kind) {
    const MEGABYTE: usize = 1024 * 1024;
    const HALF: u64 = 50 * MEGABYTE as u64;
    let site = Protected::by(kind);
    let (key, _) = site.key("uploader", "write");
    let piece = vec![b'Q'; MEGABYTE];
    let mut connection = site.front.connect();
    let length = format!("Content-Length: {}", 2 * HALF);
    connection.send(&site.front.request("PUT /large", &[&key, &length], ""));
    (0..50).for_each(|_| connection.send(&piece));
    // Much of it is there although the rest has not been sent: nobody collects it first.
    wait_for("the first part of the upload", || (site.service.body_bytes() > HALF / 2).then_some(()));
    assert_eq!(site.service.take_seen().len(), 0);
    (0..50).for_each(|_| connection.send(&piece));
    connection.receive("PUT").expect_status(200);
    assert_eq!(site.service.take_one().body_bytes, 2 * HALF);

    // The same without a length.
    connection.send(&site.front.request("PUT /large", &[&key, "Transfer-Encoding: chunked"], ""));
    for _ in 0..20 {
        connection.send(b"100000\r\n");
        connection.send(&piece);
        connection.send(b"\r\n");
    }
    connection.send(b"0\r\n\r\n");
    connection.receive("PUT").expect_status(200);
    assert_eq!(site.service.take_one().body_bytes, 20 * MEGABYTE as u64);
}

/// What else a client sends, cookies above all, is the service's business: the question to the server has none of it.
fn long_heads_lock_nobody_out(kind: Kind) {
    let site = Protected::by(kind);
    let (key, id) = site.key("reader", "read");
    let cookies = |bytes: usize| format!("Cookie: session={}", "c".repeat(bytes));
    let (one, long_uri) = (cookies(60 * 1024), format!("GET /a?q={}", "u".repeat(20_000)));
    let several: Vec<String> = (0..8).map(|_| cookies(7 * 1024)).collect();
    let many: Vec<String> = (0..90).map(|number| format!("X-Field-{number}: {}", "f".repeat(600))).collect();
    for (line, fields) in [
        ("GET /a", vec![&*one]),
        ("GET /a", several.iter().map(String::as_str).collect()),
        ("GET /a", many.iter().map(String::as_str).collect()),
        (&*long_uri, vec!["Cookie: a=b"]),
    ] {
        let (name, bytes) = (&line[..6], fields.iter().map(|field| field.len()).sum::<usize>());
        let with_key = [&[&*key][..], &fields].concat();
        site.front.ask(line, &with_key).expect_status(200);
        let seen = site.service.take_one();
        assert_eq!(seen.fields_like("x-auth-key-id"), [("x-auth-key-id".to_owned(), &*id)], "{name} {bytes}");
        assert!(site.front.ask(line, &fields).expect_status(401).header("WWW-Authenticate").is_some());
        assert_eq!(site.service.take_seen().len(), 0, "{name} {bytes}");
    }
}

fn malformed_keys_are_never_a_fault_of_ours(kind: Kind) {
    let site = Protected::by(kind);
    let (key, _) = site.key("reader", "read");
    for value in [
        "Bearer \x01".to_owned(),
        "Bearer a\x7fb".to_owned(),
        "Bearer a\tb".to_owned(),
        "Bearer caf\u{e9}".to_owned(),
        "\x1b[31m".to_owned(),
        format!("{}\x01", &key["Authorization: ".len()..]),
        format!("Bearer {}", "x".repeat(20_000)),
        format!("Bearer {}", "x".repeat(60_000)),
    ] {
        let mut connection = site.front.connect();
        connection.send_what_goes(&site.front.request("GET /a", &[&format!("Authorization: {value}")], ""));
        let response = connection.receive("GET");
        // Caddy takes no control characters at all.
        let is_refused_before =
            kind == Kind::Caddy && response.status == 400 && value.contains(['\x01', '\x7f', '\x1b']);
        assert!(response.status == 401 || is_refused_before, "{value:.40?}: {response:?}");
    }
    assert_eq!(site.service.take_seen().len(), 0);
}

fn no_verdict_lets_nobody_in(kind: Kind) {
    let Protected { database, server, service, front } = Protected::by(kind);
    let key = format!("Authorization: Bearer {}", server.bootstrap_key());
    // The server has not seen this key yet, and its database is gone.
    drop(database);
    front.ask("GET /", &[&key]).expect_status(503);
    server.terminate();
    for _ in 0..2 {
        let status = front.ask("GET /", &[&key]).status;
        assert!([502, 503].contains(&status), "{status}");
        let posted = front.ask("POST /", &[&key, "Content-Length: 0"]).status;
        assert!([502, 503].contains(&posted), "{posted}");
    }

    let stranger = Upstream::start();
    let front = Front::protecting(kind, stranger.address, service.address);
    for answer in [
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\nX-Auth-Permissions: admin\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "this is no answer",
        "",
    ] {
        stranger.answer_with(answer);
        let status = front.ask("GET /", &[&key]).status;
        assert!(!(200..300).contains(&status), "{answer:?}: {status}\n{}", front.said());
        assert!(!stranger.take_seen().is_empty(), "{answer:?}");
    }
    assert_eq!(service.take_seen().len(), 0);
}
