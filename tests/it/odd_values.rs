//! No input gives 500: odd values for every parameter of every endpoint. What is refused is named.

use std::fs;

use serde_json::json;

use crate::keys_command::keys_at;
use crate::support::directory::Directory;
use crate::support::http::{self, Response};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// Strings at the edges of what numbers, times, texts and their parsers can hold.
fn odd_values() -> Vec<String> {
    let mut values: Vec<String> = [
        "",
        " ",
        "\0",
        "a\0b",
        "-",
        "-1",
        "-0",
        "0",
        "00",
        "+1",
        "1e3",
        "1e999",
        "0x10",
        "1.0",
        "1_000",
        "NaN",
        "inf",
        "\u{ff11}",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "true",
        "TRUE",
        "false",
        "null",
        "[]",
        "{}",
        "'; DROP TABLE api_keys; --",
        "\\",
        "\"",
        "%",
        "%s%n",
        "../..",
        "\u{7f}",
        "\u{80}",
        "\u{feff}",
        "\u{202e}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{1f511}",
        "e\u{301}",
        "0000-01-01T00:00:00Z",
        "0000-01-01T00:00:00+23:59",
        "-0001-01-01T00:00:00Z",
        "-4713-11-24T00:00:00Z",
        "-4714-11-23T23:59:59Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999999Z",
        "9999-12-31T23:59:59-23:59",
        "10000-01-01T00:00:00Z",
        "294276-12-31T23:59:59Z",
        "294277-01-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "2027-02-29T00:00:00Z",
        "2999-01-01T24:00:00Z",
        "2999-01-01T00:00:00+24:00",
        "2999-01-01 00:00:00Z",
        "2999-01-01t00:00:00z",
        "infinity",
        "-infinity",
        "epoch",
        "now",
        "0s",
        "1s",
        "3650d",
        "3651d",
        "2900000d",
        "9999999d",
        "9999999999d",
        "106751991167300d",
        "106751991167301d",
        "9223372036854775807s",
        "9223372036854775808s",
        "99999999999999999999s",
        "1w",
        "1\u{661}s",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "{00000000-0000-0000-0000-000000000000}",
        "urn:uuid:00000000-0000-0000-0000-000000000000",
        "self",
        "SELF",
        "admin",
        "admin,read",
        "Admin",
    ]
    .map(str::to_owned)
    .into();
    values.extend(["a".repeat(4000), "9".repeat(4000), "%".repeat(1000), "\u{1f511}".repeat(500)]);
    values.extend(cursors());
    values
}

/// Cursors whose form is right: microseconds since 1970 at the ends of what the program and PostgreSQL can tell.
fn cursors() -> Vec<String> {
    /// 4714-11-24 BC, where the calendar of PostgreSQL begins.
    const FIRST: i64 = -210_866_803_200_000_000;
    let micros = [0, 1, -1, FIRST, FIRST - 1, FIRST + 1, FIRST * 2, i64::MIN, i64::MAX];
    // The years -9999 and 9999, and what lies a microsecond beyond.
    let years = [
        -377_705_116_800_000_000,
        -377_705_116_800_000_001,
        253_402_300_799_999_999,
        253_402_300_800_000_000,
    ];
    let ids = ["0".repeat(32), "f".repeat(32)];
    let all = micros.into_iter().chain(years);
    all.flat_map(|micros: i64| ids.iter().map(move |id| format!("{micros:016x}{id}"))).collect()
}

/// As it stands in a request's target, each byte encoded.
fn encoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Encodings that are none, and none of a value of ours.
const RAW: [&str; 12] =
    ["%", "%0", "%zz", "%00", "%ff", "%c0%80", "%ed%a0%80", "%f4%90%80%80", "+", "a%", "%25%30", "%u0041"];

struct Asked<'a> {
    server: &'a Server,
    admin: String,
}

impl Asked<'_> {
    fn get(&self, target: &str) -> Response {
        http::exchange(self.server.address, &http::request("GET", target, Some(&self.admin), None))
    }

    fn post(&self, path: &str, body: &str) -> Response {
        http::exchange(self.server.address, &http::request("POST", path, Some(&self.admin), Some(body)))
    }
}

/// Asserts that it is one of the good answers, or an error that begins with this.
#[track_caller]
fn assert_answer(response: &Response, good: &[u16], refusal: u16, start: &str, input: &str) {
    let status = response.status;
    if !good.contains(&status) {
        assert_eq!(status, refusal, "{input:.300}: {}", response.text());
        assert!(response.error().starts_with(start), "{input:.300}: {}", response.text());
    }
}

#[test]
fn parameters_of_queries() {
    let database = Database::new();
    let server = Server::start(&database);
    let asked = Asked { server: &server, admin: server.bootstrap_key() };
    let values: Vec<String> =
        odd_values().iter().map(|value| encoded(value)).filter(|value| value.len() < 6000).collect();
    for name in ["limit", "after", "revoked"] {
        for value in values.iter().map(String::as_str).chain(RAW) {
            let start = format!("{name}: ");
            for query in [format!("{name}={value}"), format!("{}={value}", encoded(name))] {
                let response = asked.get(&format!("/auth/keys?{query}"));
                assert_answer(&response, &[200], 400, &start, &query);
            }
            let twice = asked.get(&format!("/auth/keys?{name}={value}&{name}={value}"));
            assert_answer(&twice, &[], 400, &start, value);
        }
        for query in [name.to_owned(), format!("{name}="), format!("{name}=="), format!("{name}=&{name}")] {
            assert_answer(&asked.get(&format!("/auth/keys?{query}")), &[], 400, &format!("{name}: "), &query);
        }
    }
    // For a proxy, which makes 500 of anything but 401 and 403.
    for value in values.iter().map(String::as_str).chain(RAW) {
        let response = asked.get(&format!("/auth/verify?require={value}"));
        assert!([204, 403].contains(&response.status), "{value:.300}: {}", response.status);
    }
}

#[test]
fn ids_in_paths() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let values: Vec<String> = odd_values().iter().map(|value| encoded(value)).collect();
    for value in values.iter().map(String::as_str).chain(RAW).filter(|value| (1..6000).contains(&value.len()))
    {
        for (method, path, body) in [
            ("DELETE", format!("/auth/keys/{value}"), None),
            ("POST", format!("/auth/keys/{value}/rotate"), Some(r#"{"grace":"1h"}"#)),
        ] {
            let request = http::request(method, &path, Some(&admin), body);
            let response = http::exchange(server.address, &request);
            // An encoded letter is another path.
            assert_answer(&response, &[404], 400, "invalid key ID format", &path);
        }
    }
}

#[test]
fn fields_of_bodies() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--max-key-lifetime", "3650d"]).serving();
    let asked = Asked { server: &server, admin: server.bootstrap_key() };
    let mut values: Vec<serde_json::Value> = odd_values().into_iter().map(Into::into).collect();
    values.extend([
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(1e308),
        json!([]),
        json!({}),
    ]);
    for value in &values {
        for field in ["name", "permissions", "role", "expires_at", "expires_in"] {
            let mut body = json!({"name": "odd"});
            body[field] = value.clone();
            let body = body.to_string();
            assert_answer(&asked.post("/auth/keys", &body), &[201], 422, &format!("{field}: "), &body);
        }
        let old = server.make_key(&asked.admin, r#"{"name":"old","expires_in":"3650d"}"#);
        let body = json!({"grace": value}).to_string();
        let response = asked.post(&format!("/auth/keys/{}/rotate", old.id()), &body);
        assert_answer(&response, &[201], 422, "grace: ", &body);
    }
    for value in odd_values() {
        let body = json!({"name": "odd", value.as_str(): "1"}).to_string();
        assert_answer(&asked.post("/auth/keys", &body), &[], 422, "", &body);
    }
}

#[test]
fn bodies_that_no_client_writes() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (open, close) = ("[".repeat(30_000), "]".repeat(30_000));
    let deep = format!(r#"{{"name":{open}{close}}}"#);
    let long = format!(r#"{{"name":"{}"}}"#, "\u{1f511}".repeat(15_000));
    let bodies: [&[u8]; 19] = [
        b"",
        b"\0",
        b"\xef\xbb\xbf{}",
        b"{\"name\":\"\xc0\x80\"}",
        b"{\"name\":\"\xed\xa0\x80\"}",
        b"{\"name\":\"\xf4\x90\x80\x80\"}",
        b"{\"name\":\"\xff\"}",
        b"{\"name\":\"\xe2\x82\"}",
        br#"{"name":"\ud800"}"#,
        br#"{"name":"\udc00\ud800"}"#,
        br#"{"name":"\u0000"}"#,
        br#"{"name":"\ud83d\ude00"}"#,
        br#"{"name":1e999}"#,
        br#"{"name":123456789012345678901234567890}"#,
        br#"{"name":"a","name":"b"}"#,
        b"{\"name\":\"a\nb\"}",
        b"{'name':'a'}",
        deep.as_bytes(),
        long.as_bytes(),
    ];
    let old = server.make_key(&admin, r#"{"name":"old"}"#);
    for body in bodies {
        for path in ["/auth/keys".to_owned(), format!("/auth/keys/{}/rotate", old.id())] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {admin}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let response = http::exchange(server.address, &[head.as_bytes(), body].concat());
            let text = String::from_utf8_lossy(body);
            assert!([201, 400, 422].contains(&response.status), "{text:.100}: {}", response.text());
            assert!(response.status == 201 || !response.error().is_empty(), "{text:.100}");
        }
    }
}

/// Rows of other programs, with times of their own.
#[test]
fn rows_with_odd_times() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let hash = "ab".repeat(32);
    for time in ["infinity", "-infinity", "294276-12-31T23:59:59Z", "4714-11-24T00:00:00Z BC"] {
        for column in ["revoked_at", "last_used_at", "expires_at"] {
            let row = server.make_key(&admin, r#"{"name":"odd"}"#);
            database.execute(&format!(
                "UPDATE api_keys SET key_hash = id::text WHERE key_hash = '{hash}';
                 UPDATE api_keys SET {column} = '{time}' WHERE id = '{}'",
                row.id()
            ));
            server.get("/auth/keys", Some(&admin)).expect_status(200);
            let status = server.get("/auth/whoami", Some(row.key())).status;
            let is_past = ["-infinity", "4714-11-24T00:00:00Z BC"].contains(&time);
            let ends = column == "revoked_at" || column == "expires_at" && is_past;
            assert_eq!(status, if ends { 401 } else { 200 }, "{column} {time}");
            // A file may declare the hash of such a row.
            database.execute(&format!("UPDATE api_keys SET key_hash = '{hash}' WHERE id = '{}'", row.id()));
            let directory = Directory::new();
            let file = directory.join("keys.toml");
            fs::write(&file, format!("[[key]]\nname = 'n'\nsha256 = '{hash}'\npermissions = 'read'\n"))
                .unwrap();
            let outcome = keys_at(&database.url(), &["apply", file.to_str().unwrap(), "--dry-run"], "");
            outcome.failed(1, &["which no file declared"]);
        }
    }
}

/// The same, with ends from which the successor's has to be told.
#[test]
fn rotations_of_rows_with_odd_ends() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--max-key-lifetime", "36500d"]).serving();
    let unlimited = Server::start(&database);
    let admin = server.bootstrap_key();
    for end in
        ["infinity", "294276-12-31T23:59:59.999999Z", "10000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
    {
        for created in ["epoch", "now"] {
            for server in [&server, &unlimited] {
                let old = unlimited.make_key(&admin, r#"{"name":"odd"}"#);
                database.execute(&format!(
                    "UPDATE api_keys SET expires_at = '{end}', created_at = '{created}' WHERE id = '{}'",
                    old.id()
                ));
                let path = format!("/auth/keys/{}/rotate", old.id());
                let response = server.post(&path, &admin, r#"{"grace":"3650d"}"#);
                assert_eq!(response.status, 201, "{end} {created}: {}", response.text());
                server.get("/auth/whoami", Some(old.key())).expect_status(200);
            }
        }
    }
}
