//! `scripts/run.sh` through the shells that small systems have, before a server that says what it is told to: how it follows
//! an execution, and how it ends.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::scratch::{Outcome, outcome};
use crate::support::directory::Directory;

const SHELLS: [&[&str]; 2] = [&["dash"], &["busybox", "sh"]];
const ID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
/// No log gives more than that at once.
const PIECE_BYTES: usize = 7;

/// What a request was.
#[derive(Debug, Clone)]
struct Asked {
    headers: String,
    body: String,
}

/// Says in turn how the execution is, and the last of that for ever; logs are whole from the start.
struct Fake {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

type Logs = &'static [(&'static str, &'static [u8])];

impl Fake {
    /// `states` are an execution's status and its tasks, each with status, attempts and error; `None` is 503. Logs are by
    /// task and attempt.
    fn start(states: Vec<Option<serde_json::Value>>, logs: Logs) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let mut states = VecDeque::from(states);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &mut states, logs, &seen);
            }
        });
        Fake { address, asked }
    }

    fn run_in(&self, shell: &[&str], directory: &Path, arguments: &[&str]) -> Outcome {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/run.sh");
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(script).args(arguments).current_dir(directory).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TMPDIR", directory);
        command
            .env("CLOACINA_URL", format!("http://{}", self.address))
            .env("CLOACINA_API_KEY", "clk_topsecret");
        let outcome = outcome(command.output().unwrap());
        assert!(!format!("{outcome:?}").contains("topsecret"), "{outcome:?}");
        outcome
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    states: &mut VecDeque<Option<serde_json::Value>>,
    logs: Logs,
    seen: &Mutex<Vec<Asked>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while reader.read_line(&mut head).unwrap() > 2 {}
    let (line, headers) = head.split_once("\r\n").unwrap_or_default();
    let length = headers.lines().find_map(|field| field.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    seen.lock().unwrap().push(Asked { headers: headers.to_owned(), body });
    let target = line.split(' ').nth(1).unwrap();
    let (status, fields, body) = if line.starts_with("POST /tenants/acme/workflows/hello/execute ") {
        (202, String::new(), json!({"execution_id": ID, "status": "scheduled"}).to_string().into_bytes())
    } else if let Some((task, query)) =
        target.split_once("/tasks/").and_then(|(_, log)| log.split_once("/log?"))
    {
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)).map_or("0", |value| &value[1..])
        };
        let name = format!("{task} {}", parameter("attempt"));
        let whole = logs.iter().find(|(log, _)| *log == name).unwrap_or_else(|| panic!("no log {name}")).1;
        let after: usize = parameter("after").parse().unwrap();
        let next = whole.len().min(after + PIECE_BYTES);
        (200, format!("X-Log-Next: {next}\r\n"), whole[after..next].to_vec())
    } else if target.starts_with(&format!("/tenants/acme/executions/{ID}")) {
        let state = if states.len() > 1 { states.pop_front().unwrap() } else { states[0].clone() };
        match state {
            Some(state) => (200, String::new(), state.to_string().into_bytes()),
            None => (503, "Retry-After: 1\r\n".to_owned(), br#"{"error":"database unavailable"}"#.to_vec()),
        }
    } else {
        (404, String::new(), b"{\"error\":\"workflow not found\"}".to_vec())
    };
    let head =
        format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
    let mut stream = stream;
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}

fn state(
    status: &str,
    error: Option<&str>,
    tasks: &[(&str, &str, u32, Option<&str>)],
) -> Option<serde_json::Value> {
    let tasks: Vec<_> = tasks
        .iter()
        .map(|(id, status, attempts, error)| json!({"id": id, "status": status, "attempts": attempts, "error": error}))
        .collect();
    Some(json!({"status": status, "error": error, "tasks": tasks}))
}

#[test]
fn it_shows_what_every_attempt_prints_and_ends_with_0() {
    const LOGS: Logs = &[
        ("a 1", b"one\ntwo \x1b[31mred\x1b[0m\npart"),
        ("a 2", b"again\n\x07last line"),
        ("b 1", "caf\u{e9} \u{9b}2J\n".as_bytes()),
    ];
    for shell in SHELLS {
        let fake = Fake::start(
            vec![
                state("Pending", None, &[("a", "NotStarted", 0, None), ("b", "NotStarted", 0, None)]),
                None,
                state("Running", None, &[("a", "Running", 1, None), ("b", "NotStarted", 0, None)]),
                state(
                    "Running",
                    None,
                    &[("a", "Ready", 1, Some("exit code 1")), ("b", "NotStarted", 0, None)],
                ),
                state("Running", None, &[("a", "Running", 2, None), ("b", "Running", 1, None)]),
                state("Completed", None, &[("a", "Completed", 2, None), ("b", "Completed", 1, None)]),
            ],
            LOGS,
        );
        let directory = Directory::new();
        fs::write(directory.join("context.json"), "{\"n\": 12345678901234567890123}\n").unwrap();
        let outcome = fake.run_in(shell, directory.path(), &["acme", "hello", "context.json"]);
        let shown = "a | one\na | two red\na | part\n\
                     a | again\na | last line\nb | caf\u{e9} 2J\n";
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stdout, shown, "{shell:?}");
        assert_eq!(outcome.stderr, format!("run.sh: execution {ID}\nrun.sh: Completed\n"));
        let start = &fake.asked()[0];
        // As it stands in the file: no digit is lost.
        assert_eq!(start.body, "{\"context\":{\"n\": 12345678901234567890123}\n}");
        assert!(start.headers.contains("Authorization: Bearer clk_topsecret"), "{start:?}");
        assert!(start.headers.contains("Idempotency-Key: "), "{start:?}");
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "nothing is left behind");
    }
}

#[test]
fn a_failure_is_named_and_ends_it_with_1() {
    for shell in SHELLS {
        let tasks = [("a", "Failed", 1, Some("exit code 3")), ("b", "Skipped", 0, None)];
        let fake =
            Fake::start(vec![state("Failed", Some("task `a` failed\u{1b}"), &tasks)], &[("a 1", b"oops")]);
        let directory = Directory::new();
        let outcome = fake.run_in(shell, directory.path(), &["acme", "hello", "--idempotency-key", "k-1"]);
        assert_eq!((outcome.code, &*outcome.stdout), (Some(1), "a | oops\n"), "{outcome:?}");
        let told = format!(
            "run.sh: execution {ID}\nrun.sh: a: Failed: exit code 3\nrun.sh: Failed: task `a` failed\n"
        );
        assert_eq!(outcome.stderr, told);
        let start = &fake.asked()[0];
        assert_eq!(start.body, "{\"context\":{}}");
        assert!(start.headers.contains("Idempotency-Key: k-1\r\n"), "{start:?}");
        let unknown = fake.run_in(shell, directory.path(), &["acme", "none"]);
        assert_eq!(
            (unknown.code, &*unknown.stderr),
            (Some(1), "run.sh: workflow not found\n"),
            "{unknown:?}"
        );
    }
}

#[test]
fn wrong_usage_ends_it_with_2() {
    let fake = Fake::start(vec![None], &[]);
    let directory = Directory::new();
    fs::write(directory.join("list.json"), "[1]").unwrap();
    fs::write(directory.join("two.json"), "{} {}").unwrap();
    for (arguments, told) in [
        (&["acme"][..], "a TENANT and a WORKFLOW are needed"),
        (&["acme", "hello", "list.json", "more"], "wrong number of arguments"),
        (&["acme", "../hello"], "names of tenants and workflows"),
        (&["acme", "hello", "--key", "x"], "unknown flag --key"),
        (&["acme", "hello", "--idempotency-key"], "--idempotency-key needs a value"),
        (&["acme", "hello", "--idempotency-key=a b"], "visible characters"),
        (&["acme", "hello", "list.json"], "must be one JSON object"),
        (&["acme", "hello", "two.json"], "must be one JSON object"),
        (&["acme", "hello", "none.json"], "cannot read the context"),
    ] {
        for shell in SHELLS {
            let outcome = fake.run_in(shell, directory.path(), arguments);
            assert_eq!((outcome.code, &*outcome.stdout), (Some(2), ""), "{arguments:?}: {outcome:?}");
            assert!(outcome.stderr.contains(told), "{arguments:?}: {outcome:?}");
        }
    }
    assert!(fake.asked().is_empty());
}
