//! The command line: what is printed where, and the exit codes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;
use std::thread;

use crate::scratch::{Scratch, outcome};

#[test]
fn version_and_help_are_results() {
    let scratch = Scratch::new();
    scratch.run(&["--version"]).printed("cloacinactl 0.1.0\n");
    for arguments in [["help"].as_slice(), &["--help"], &["-h"], &["help", "config"], &["health", "--help"]] {
        let outcome = scratch.run(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(outcome.stdout.contains("Usage: cloacinactl"), "{arguments:?}");
    }
    // None of that touches the home directory.
    assert!(!scratch.home("").exists());
}

#[test]
fn serve_help_says_flag_variable_and_default() {
    let help = Scratch::new().run(&["serve", "--help"]).stdout;
    for text in [
        "--bind ADDR:PORT\n",
        "[env: CLOACINA_BIND, key: bind, default: 0.0.0.0:8080]",
        "--database-url URL\n",
        "[env: DATABASE_URL, key: database_url]",
        "--bootstrap-key-file FILE\n",
        "[env: CLOACINA_AUTH_CACHE_TTL, key: auth_cache_ttl, default: 30s]",
    ] {
        assert!(help.contains(text), "no {text} in {help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_one_line() {
    let scratch = Scratch::new();
    scratch.run(&[]).failed(
        2,
        &["no command given", "serve, config, keys, tenants, hosts, workflow, health, completions, help"],
    );
    scratch.run(&["start"]).failed(
        2,
        &[
            "unknown command `start`",
            "serve, config, keys, tenants, hosts, workflow, health, completions, help",
        ],
    );
    scratch.run(&["serve", "--prot", "1"]).failed(2, &["`--prot`", "--bind"]);
    scratch.run(&["srve"]).failed(2, &["unknown command `srve` (did you mean `serve`?)"]);
    scratch
        .run(&["serve", "--databse-url=x"])
        .failed(2, &["`--databse-url` is unknown (did you mean `--database-url`?)"]);
    scratch.run(&["keys", "lst"]).failed(2, &["unknown action `lst` (did you mean `list`?)"]);
    scratch.run(&["config", "ste", "a", "b"]).failed(2, &["unknown action `ste` (did you mean `set`?)"]);
    scratch
        .run(&["config", "get", "databse_url"])
        .failed(2, &["`databse_url` (did you mean `database_url`?)"]);
    scratch
        .run(&["health", "--url", "127.0.0.1:8080"])
        .failed(2, &["invalid value `127.0.0.1:8080` for `--url`", "http://127"]);
    scratch.run(&["health", "--url", "u:topsecret@h:1"]).failed(2, &["invalid value `***` for `--url`"]);
    scratch.run(&["health", "localhost:8080"]).failed(2, &["unexpected argument `localhost:8080`"]);
    scratch.run(&["serve", "now"]).failed(2, &["`now`"]);
    scratch.run(&["serve", "--bind"]).failed(2, &["`--bind` needs a value"]);
    scratch.run(&["serve", "--bind=1", "--bind=2"]).failed(2, &["`--bind` is given twice"]);
    scratch.run(&["config", "list", "all"]).failed(2, &["`config list` takes no argument"]);
    scratch.run(&["bad\nline"]).failed(2, &["`bad\\nline`"]);
}

#[test]
fn arguments_that_are_no_text_are_no_panic() {
    let scratch = Scratch::new();
    let mut command = scratch.command(&["serve"]);
    command.arg(OsString::from_vec(b"--bind=\xff".to_vec()));
    outcome(command.output().unwrap()).failed(2, &["argument 2 is not UTF-8: `--bind`"]);
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let scratch = Scratch::new();
    for arguments in [["help"].as_slice(), &["config", "list"], &["--version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let outcome = outcome(scratch.command(arguments).stdout(writer).output().unwrap());
        outcome.printed("");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Scratch::new().command(&["help"]).stdout(full).output().unwrap();
    outcome(output).failed(1, &["cannot write to stdout: No space left on device"]);
}

#[test]
fn an_error_that_nobody_reads_is_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Scratch::new().command(&["nonsense"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn without_home_the_flag_is_named() {
    let scratch = Scratch::new();
    for home in [None, Some("")] {
        let mut command = scratch.command(&["config", "list"]);
        match home {
            Some(empty) => command.env("HOME", empty),
            None => command.env_remove("HOME"),
        };
        outcome(command.output().unwrap()).failed(2, &["HOME", "--home DIR"]);
    }
    scratch.run(&["--home", "", "config", "list"]).failed(2, &["--home"]);
    scratch.run_with(&[("HOME", "")], &["--home", "x", "config", "get", "workers"]).printed("8\n");
}

/// Answers one request with these bytes and returns its first line; or with nothing, until the client gives up.
fn server(answer: &'static str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        client.write_all(answer.as_bytes()).unwrap();
        if answer.is_empty() {
            let _ = client.read(&mut byte);
        }
        String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
    });
    (url, thread)
}

#[test]
fn health_of_a_server_that_is_ready() {
    let scratch = Scratch::new();
    let (url, thread) = server("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"status\":\"ready\"}");
    scratch.run(&["health", "--url", &url]).printed("ready\n");
    assert_eq!(thread.join().unwrap(), "GET /ready HTTP/1.1");
    // Where it is follows from the configuration.
    let (url, thread) = server("HTTP/1.1 200 OK\r\n\r\n");
    let port = url.rsplit(':').next().unwrap();
    scratch.write_config(&format!("bind = '0.0.0.0:{port}'"));
    scratch.run(&["health"]).printed("ready\n");
    thread.join().unwrap();
}

#[test]
fn health_of_a_server_that_is_not() {
    let scratch = Scratch::new();
    let (url, _) = server(
        "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"status\":\"not ready\",\"reason\":\"database unreachable\"}",
    );
    let outcome = scratch.run(&["health", "--url", &url]);
    outcome.failed(1, &["not ready", &url, "503: database unreachable"]);
    let (url, _) = server("HTTP/1.1 404 Not Found\r\n\r\n");
    scratch.run(&["health", "--url", &url]).failed(1, &["answered 404\n"]);
    let (url, _) = server("SSH-2.0-x\r\n");
    scratch.run(&["health", "--url", &url]).failed(1, &["the answer is no HTTP"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scratch.run(&["health", "--url", &format!("http://{nobody}")]).failed(1, &["refused"]);
    scratch.run(&["health", "--url", "https://localhost"]).failed(2, &["--url", "only http://"]);
    let refused = scratch.run(&["health", "--url", "http://u:topsecret@localhost"]);
    refused.failed(2, &["--url"]);
    assert!(!refused.stderr.contains("topsecret"));
    scratch.write_config("bind = '127.0.0.1:0'");
    scratch.run(&["health"]).failed(2, &["--url"]);
}

#[test]
fn health_gives_up_on_silence() {
    let (url, _) = server("");
    Scratch::new().run(&["health", "--url", &url]).failed(1, &["did not answer within 5 s"]);
}

#[test]
fn stdin_is_not_needed() {
    let output = Scratch::new().command(&["config", "list"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(outcome(output).code, Some(0));
}
