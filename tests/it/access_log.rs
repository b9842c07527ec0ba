//! Lines about requests: all of them where that is wanted, else those that failed and those that changed a key.

use serde_json::Value;

use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// Sends it with this request id; the id also tells which line of the log is about it.
fn ask(server: &Server, id: &str, method: &str, target: &str, key: Option<&str>) -> http::Response {
    let request = http::request(method, target, key, None);
    let line_end = request.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
    let (line, fields) = request.split_at(line_end);
    let mut connection = Connection::open(server.address);
    connection.send(&[line, format!("X-Request-Id: {id}\r\n").as_bytes(), fields].concat());
    connection.receive(method)
}

fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["target"] == "cloacinactl::access").collect()
}

#[test]
fn a_line_for_every_request() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--access-log"]).serving();
    let admin = server.bootstrap_key();
    let own = server.get("/auth/whoami", Some(&admin)).expect_status(200).json();
    let listed = ask(&server, "a", "GET", "/auth/keys?limit=1&secret=topsecret", Some(&admin));
    let bytes = listed.expect_status(200).text().len();
    ask(&server, "b", "HEAD", "/health", None).expect_status(200);
    ask(&server, "c", "GET", "/no/such/topsecret", None).expect_status(404);
    ask(&server, "d", "GET", "/auth/whoami", Some("topsecret")).expect_status(401);
    ask(&server, "e", "DELETE", "/auth/keys/topsecret", Some(&admin)).expect_status(400);
    ask(&server, "f", "GET", "/auth/verify", Some(&admin)).expect_status(204);
    let _ = http::raw(server.address, b"nonsense\r\n\r\n");
    let all = wait_for("all eight lines", || Some(lines(&server)).filter(|all| all.len() == 8));
    let fields = ["request_id", "method", "route", "status", "bytes", "client", "key_id"];
    let shown = |line: &Value| fields.map(|field| line[field].clone());
    let id = &own["id"];
    let (here, none) = (Value::from("127.0.0.1"), Value::Null);
    let expected = [
        ("a", "GET", "/auth/keys", 200, bytes, id),
        ("b", "HEAD", "/health", 200, 0, &none),
        ("c", "GET", "unmatched", 404, 21, &none),
        ("d", "GET", "/auth/whoami", 401, 38, &none),
        ("e", "DELETE", "/auth/keys/{id}", 400, 33, id),
        ("f", "GET", "/auth/verify", 204, 0, id),
    ];
    for (line, (request_id, method, route, status, bytes, key_id)) in all[1..7].iter().zip(expected) {
        let expected: [Value; 7] = [
            request_id.into(),
            method.into(),
            route.into(),
            status.into(),
            bytes.into(),
            here.clone(),
            key_id.clone(),
        ];
        assert_eq!(shown(line), expected, "{line}");
        let milliseconds = line["milliseconds"].to_string();
        assert!(milliseconds.parse::<f64>().unwrap() >= 0.0, "{line}");
        let digits = milliseconds.split_once('.').map_or("", |(_, digits)| digits);
        assert!(digits.len() <= 3, "more than microseconds: {line}");
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"answered".into()), "{line}");
    }
    assert_eq!((&all[7]["route"], &all[7]["status"]), (&"malformed".into(), &400.into()), "{}", all[7]);
    let ended = server.stderr_with("route=malformed");
    assert!(!ended.contains("topsecret"), "{ended}");
}

#[test]
fn the_environment_and_the_file_may_ask_for_it() {
    let database = Database::new();
    let server = Start::on(&database).environment("CLOACINA_ACCESS_LOG", "true").serving();
    server.get("/health", None).expect_status(200);
    server.log_line(&["cloacinactl::access", "/health"]);
    let wrong = Start::on(&database).environment("CLOACINA_ACCESS_LOG", "yes").failing().expect_code(2);
    let said = "invalid value `yes` for `CLOACINA_ACCESS_LOG`: must be true or false";
    assert!(wrong.stderr.contains(said), "{wrong:#?}");
}

/// Without it, the id that a client was told still leads to a line where there is something to be found out.
#[test]
fn failures_and_changes_have_their_ids_in_the_log() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--database-timeout", "300ms"]).serving();
    let admin = server.bootstrap_key();
    server.wait_for_pool();
    let made = server.make_key(&admin, r#"{"name":"ci"}"#);
    let created = server.log_line(&["key created", made.id()]);
    assert!(!created["request_id"].as_str().unwrap_or_default().is_empty(), "{created}");
    ask(&server, "the-end", "DELETE", &format!("/auth/keys/{}", made.id()), Some(&admin)).expect_status(200);
    assert_eq!(server.log_line(&["key revoked"])["request_id"], "the-end");
    ask(&server, "refused", "GET", "/auth/keys", Some("wrong")).expect_status(401);
    ask(&server, "fine", "GET", "/auth/keys", Some(&admin)).expect_status(200);
    let lock = database.lock_keys();
    ask(&server, "failed", "GET", "/auth/keys", Some(&admin)).expect_status(503);
    lock.release();
    let failed = server.log_line(&["\"failed\""]);
    assert_eq!((&failed["level"], &failed["status"]), (&"WARN".into(), &503.into()), "{failed}");
    assert_eq!((&failed["route"], &failed["request_id"]), (&"/auth/keys".into(), &"failed".into()));
    assert_eq!(
        lines(&server).len(),
        1,
        "requests that were answered or refused have no line: {}",
        server.log()
    );
}

/// A failed request has a line, or is counted in one that stands for many; never both.
#[test]
fn failures_beyond_their_lines_are_counted() {
    const COUNT: usize = 40;
    let database = Database::new();
    let failing = http::request("GET", "/auth/keys", Some("a-key-that-is-looked-up"), None);
    for (flags, has_all_lines) in [(&["--access-log"][..], true), (&[], false)] {
        let start = Start::on(&database).arguments(["--database-timeout", "300ms"]);
        let server = flags.iter().fold(start, |start, flag| start.arguments([*flag])).serving();
        server.wait_for_pool();
        let lock = database.lock_keys();
        let mut clients: Vec<_> = (0..COUNT).map(|_| Connection::open(server.address)).collect();
        clients.iter_mut().for_each(|client| client.send(&failing));
        clients.iter_mut().for_each(|client| _ = client.receive("GET").expect_status(503));
        lock.release();
        let said = server.terminate().expect_code(0).stderr;
        let lines = said.lines().filter(|line| line.contains("status=503")).count();
        let counts = said.lines().filter_map(|line| line.split_once("failed without a line: "));
        let counted: usize = counts.map(|(_, count)| count.parse::<usize>().unwrap()).sum();
        assert_eq!(lines + counted, COUNT, "{said}");
        assert!(counted == 0 || !has_all_lines, "{said}");
    }
}
