//! What a request to execute may say.

use super::{Idle, text};
use crate::support::http::{Connection, request};

const EXECUTE: &str = "workflows/nightly/execute";
const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn bodies_that_will_not_do() {
    let idle = Idle::start();
    for (body, status, start) in [
        ("{", 400, "request body is not valid JSON: "),
        (r#"{"context":{"a":1e999}}"#, 400, "request body is not valid JSON: number out of range"),
        (r#"{"context":{"a":"\ud800"}}"#, 400, "request body is not valid JSON: "),
        ("[]", 422, "invalid type: sequence, expected a JSON object such as {\"context\":{}}"),
        (r#"{"context":[]}"#, 422, "context: expected an object, not an array"),
        (r#"{"context":null}"#, 422, "context: expected an object, not null"),
        (r#"{"context":{"a":{"b":1,"b":2}}}"#, 422, "b: stands more than once"),
        (r#"{"context":{},"context":{}}"#, 422, "context: stands more than once"),
        (
            r#"{"contex":{}}"#,
            422,
            "contex: unknown field (did you mean `context`?); known are context, version, run_at",
        ),
        (r#"{"version":"1"}"#, 422, "version: `1` is no version"),
        (r#"{"version":1}"#, 422, "version: expected a string, not a number"),
        (r#"{"run_at":"soon"}"#, 422, "run_at: expected a date and time as in RFC 3339"),
    ] {
        let refused = idle.post(EXECUTE, Some(body)).expect_status(status).error();
        assert!(refused.starts_with(start), "{body}: {refused}");
    }
    let text = "Content-Type: text/plain\r\n";
    idle.post_with(EXECUTE, text, b"{}").expect_status(415);
    let gzip = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    idle.post_with(EXECUTE, gzip, b"{}").expect_status(415);
    assert_eq!(idle.site.database.value::<i64>("SELECT count(*) FROM cloacina_executions"), 0);
}

#[test]
fn a_context_is_kept_to_the_digit() {
    let idle = Idle::start();
    let context =
        r#"{"n" : 12345678901234567890.123456789012345678901234567890, "e":1E+2,"u":"\u0000\u00e9é","z":-0}"#;
    let made = idle.post(EXECUTE, Some(&format!("{{\"context\": {context} }}"))).expect_status(202).json();
    let shown = idle.get(&format!("executions/{}", text(&made, "execution_id"))).expect_status(200);
    assert!(shown.text().contains(&format!(",\"context\":{context},")), "{}", shown.text());
}

#[test]
fn a_body_may_have_a_mebibyte() {
    let idle = Idle::start();
    let body = |length: usize| {
        let frame = r#"{"context":{"a":""}}"#.len();
        format!(r#"{{"context":{{"a":"{}"}}}}"#, "x".repeat(length - frame))
    };
    let largest = 1024 * 1024;
    for length in [65_536, 65_537, largest] {
        let made = idle.post(EXECUTE, Some(&body(length))).expect_status(202).json();
        let shown =
            idle.get(&format!("executions/{}", text(&made, "execution_id"))).expect_status(200).json();
        assert_eq!(text(&shown["context"], "a").len(), length - 20);
    }
    let line = "request body is larger than 1048576 bytes";
    assert_eq!(idle.post_with(EXECUTE, JSON, body(largest + 1).as_bytes()).expect_status(413).error(), line);
    // In chunks as well, and small.
    let chunked = |body: &str| {
        let mut connection = Connection::open(idle.site.server.address);
        let head = format!(
            "POST /tenants/acme/{EXECUTE} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{JSON}\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            idle.key,
            body.len()
        );
        connection.send_what_goes(head.as_bytes());
        let response = connection.receive("POST");
        // The connection goes on after one that was taken.
        if response.status == 202 {
            connection.ask("GET", "/health", None, None).expect_status(200);
        }
        response
    };
    chunked(r#"{"context":{"b":1}}"#).expect_status(202);
    chunked(&body(largest)).expect_status(202);
    assert_eq!(chunked(&body(largest + 1)).expect_status(413).error(), line);

    // A client that may not execute sends none of it.
    let reader = idle.site.key_of("acme", "read").key().to_owned();
    for (key, status) in [(Some(reader.as_str()), 403), (None, 401)] {
        let mut head = request("POST", &format!("/tenants/acme/{EXECUTE}"), key, None);
        head.truncate(head.len() - 2);
        let fields = format!("{JSON}Content-Length: {largest}\r\nExpect: 100-continue\r\n\r\n");
        let mut connection = Connection::open(idle.site.server.address);
        connection.send(&[&head[..], fields.as_bytes()].concat());
        connection.receive("POST").expect_status(status);
    }
}
