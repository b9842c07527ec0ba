//! What a key may do: only `admin` manages keys, and any valid key is told who it is.

use crate::keys::insert_key;
use crate::support::http::{self, Response};
use crate::support::postgres::Database;
use crate::support::server::Server;

/// What an older server may have left in the column, and what is not `admin` although it looks like it.
const ODD: &[&str] = &["", "-", "root", "Admin", "admin ", "admin,write", "*", "caf\u{e9} 50%"];

/// Asserts the refusal of a valid key that may not do this (RFC 6750, 3.1).
#[track_caller]
pub fn forbidden(response: Response) {
    let challenge = response.header("WWW-Authenticate").map(str::to_owned);
    assert_eq!(challenge.as_deref(), Some(r#"Bearer realm="cloacina", error="insufficient_scope""#));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    response.expect(403, r#"{"error":"insufficient permissions"}"#);
}

fn refusals(server: &Server) -> f64 {
    server.metric("cloacina_auth_failures_total", &[("reason", "permission")])
}

/// A key of every kind that is not `admin`.
fn others(server: &Server, database: &Database, admin: &str) -> Vec<(String, String)> {
    let mut keys: Vec<(String, String)> = ["write", "read"]
        .iter()
        .map(|role| {
            let made = server.make_key(admin, &format!(r#"{{"name":"n","role":"{role}"}}"#));
            (made.id().to_owned(), made.key().to_owned())
        })
        .collect();
    for (number, permissions) in ODD.iter().enumerate() {
        let key = format!("an-odd-key-of-an-older-server-{number}");
        keys.push((insert_key(database, &key, "odd", permissions), key));
    }
    keys
}

#[test]
fn only_administrators_manage_keys() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (other_id, other) = server.create_key(&admin, "other");
    for (id, key) in others(&server, &database, &admin) {
        let count: i64 = database.value("SELECT count(*) FROM api_keys");
        let mut refused = refusals(&server);
        let other_path = format!("/auth/keys/{other_id}");
        let own_path = format!("/auth/keys/{id}");
        for (method, path, body) in [
            ("GET", "/auth/keys", None),
            ("GET", "/auth/keys?limit=0", None),
            ("POST", "/auth/keys", Some(r#"{"name":"n"}"#)),
            ("POST", "/auth/keys", Some(r#"{"name":"n","role":"read"}"#)),
            // Whoever may not ask learns nothing of what would have been wrong.
            ("POST", "/auth/keys", Some("nonsense")),
            ("POST", "/auth/keys", None),
            ("DELETE", &other_path, None),
            ("DELETE", "/auth/keys/nonsense", None),
            ("DELETE", "/auth/keys/00000000-0000-4000-8000-000000000000", None),
            // Its own key has another path.
            ("DELETE", &own_path, None),
            ("POST", &format!("{other_path}/rotate"), None),
            ("POST", &format!("{other_path}/rotate"), Some(r#"{"grace":"1h"}"#)),
        ] {
            forbidden(http::exchange(server.address, &http::request(method, path, Some(&key), body)));
            refused += 1.0;
            assert_eq!(refusals(&server), refused, "{method} {path}");
        }
        let head = http::exchange(server.address, &http::request("HEAD", "/auth/keys", Some(&key), None));
        assert_eq!((head.status, head.text()), (403, ""));
        assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), count);
    }
    assert!(server.lets_in(&other), "nobody could touch it");
    assert_eq!(database.value::<i64>("SELECT count(revoked_at) FROM api_keys"), 0);
}

#[test]
fn any_key_is_told_who_it_is() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut keys = others(&server, &database, &admin);
    keys.push(server.create_key(&admin, "administrator"));
    let brief = server.make_key(&admin, r#"{"name":"\"brief\" \u00e9","role":"read","expires_in":"30d"}"#);
    keys.push((brief.id().to_owned(), brief.key().to_owned()));
    for (id, key) in keys {
        let response = server.get("/auth/whoami", Some(&key)).expect_status(200);
        assert_eq!(response.header("Cache-Control"), Some("no-store"));
        let listed = server.get("/auth/keys", Some(&admin)).json();
        let row = listed["keys"].as_array().unwrap().iter().find(|row| row["id"] == id.as_str()).unwrap();
        // Fresh from the answer: the listing may be a use younger.
        let last_used_at = &response.json()["last_used_at"];
        assert_eq!(
            response.text(),
            format!(
                r#"{{"id":"{id}","name":{},"permissions":{},"created_at":{},"expires_at":{},"last_used_at":{last_used_at},"tenant":null}}"#,
                row["name"], row["permissions"], row["created_at"], row["expires_at"]
            )
        );
    }
    // What follows a `?` is nobody's business here.
    server.get("/auth/whoami?require=admin&x=%", Some(brief.key())).expect_status(200);
}

#[test]
fn odd_permissions_open_nothing_and_keep_their_text() {
    let database = Database::new();
    let server = Server::start(&database);
    for (number, permissions) in ODD.iter().enumerate() {
        let key = format!("an-odd-key-of-an-older-server-{number}");
        insert_key(&database, &key, "odd", permissions);
        for required in ["read", "write", "admin"] {
            forbidden(server.get(&format!("/auth/verify?require={required}"), Some(&key)));
        }
        assert_eq!(server.get("/auth/whoami", Some(&key)).json()["permissions"], *permissions);
        server.delete("/auth/keys/self", &key).expect_status(200);
        assert!(!server.knows(&key));
    }
}
