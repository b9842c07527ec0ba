//! What must never be seen: keys, their hashes and the database's password, in anything that the server writes.

use std::fs;

use crate::keys::{hash, unknown_key};
use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::{Database, MADE_UP_PASSWORD};
use crate::support::server::Start;

#[test]
fn nothing_that_is_written_has_a_secret_in_it() {
    let database = Database::new();
    let (url, password) = database.url_with_password();
    let chosen = "an-owner-chose-this-key-with-care";
    // By the environment: a command line is for everyone to see.
    let home = Directory::new();
    let server = Start::without_database()
        .home(&home)
        .environment("DATABASE_URL", &url)
        .environment("CLOACINA_BOOTSTRAP_KEY", chosen)
        .environment("RUST_LOG", "trace")
        .arguments(["--verbose"])
        .serving();
    let pid = server.pid();

    let mut answers = String::new();
    let mut ask = |method: &str, path: &str, key: Option<&str>, json: Option<&str>| {
        let mut connection = Connection::open(server.address);
        connection.send_what_goes(&http::request(method, path, key, json));
        let response = connection.receive(method);
        answers += &format!("{response:?}\n{}\n", response.text());
        response
    };
    let mut secrets = vec![chosen.to_owned()];
    for number in 0..5 {
        let json = format!(r#"{{"name":"key-{number}"}}"#);
        let made =
            http::exchange(server.address, &http::request("POST", "/auth/keys", Some(chosen), Some(&json)));
        let made = made.expect_status(201).json();
        let key = made["key"].as_str().unwrap().to_owned();
        ask("GET", "/auth/keys", Some(&key), None).expect_status(200);
        let path = format!("/auth/keys/{}", made["id"].as_str().unwrap());
        ask("DELETE", &path, Some(&key), None).expect_status(200);
        ask("GET", "/auth/keys", Some(&key), None).expect_status(401);
        ask("DELETE", &path, Some(chosen), None).expect_status(404);
        secrets.push(key);
    }
    let mut mistyped = unknown_key();
    mistyped.replace_range(10..11, "z");
    for key in [unknown_key(), mistyped, "a-key-of-another-service".to_owned()] {
        ask("GET", "/auth/keys", Some(&key), None).expect_status(401);
        ask("POST", "/auth/keys", Some(&key), Some(&format!("{{\"{key}\":"))).expect_status(401);
        secrets.push(key);
    }
    // Keys in places where they do not belong: a path, a query, a body, a header of another name.
    let misplaced = "clk_misplaced-key-that-somebody-pasted-anywhere";
    ask("GET", &format!("/auth/keys?after={misplaced}"), Some(chosen), None).expect_status(400);
    ask("DELETE", &format!("/auth/keys/{misplaced}"), Some(chosen), None).expect_status(400);
    ask("GET", &format!("/{misplaced}"), Some(chosen), None).expect_status(404);
    ask("POST", "/auth/keys", Some(chosen), Some(&format!(r#"{{"name": {misplaced}}}"#))).expect_status(400);
    ask("POST", "/auth/keys", Some(chosen), Some(r#"{"name":""}"#)).expect_status(422);
    let broken =
        format!("GET /auth/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {chosen}\r\nX: \x01\r\n\r\n");
    answers += &String::from_utf8_lossy(&http::raw(server.address, broken.as_bytes()));
    answers += server.get("/metrics", None).text();

    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let stdout = server.stdout();
    let ended = server.terminate().expect_code(0);
    let mut logs = String::new();
    for entry in fs::read_dir(home.join("logs")).unwrap().flatten() {
        logs += &fs::read_to_string(entry.path()).unwrap();
    }
    assert!(!ended.stderr.is_empty());

    // With the marks around it that it has in a URL: the one of a developer's PostgreSQL may be an everyday word.
    let in_url = format!(":{password}@");
    let hashes: Vec<String> = secrets.iter().map(|key| hash(key)).collect();
    for (place, text) in [
        ("stdout", &stdout),
        ("stderr", &ended.stderr),
        ("the log files", &logs),
        ("the answers", &answers),
        ("the command line", &String::from_utf8_lossy(&command_line).into_owned()),
    ] {
        for secret in secrets.iter().chain(&hashes).chain([&in_url]) {
            assert!(!text.contains(secret.as_str()), "{secret} is in {place}: {}", around(text, secret));
        }
        assert!(!text.contains(MADE_UP_PASSWORD), "{}", around(text, MADE_UP_PASSWORD));
        // Nor most of one: the first 12 characters may be shown, no more.
        for key in secrets.iter().filter(|key| key.len() > 30) {
            let more = &key[..20];
            assert!(!text.contains(more), "{more} is in {place}: {}", around(text, more));
        }
    }
}

fn around(text: &str, found: &str) -> String {
    text.lines().find(|line| line.contains(found)).unwrap_or_default().to_owned()
}
