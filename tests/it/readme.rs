//! What the README says is so: its settings are those of `serve --help`, its endpoints those of the server, and its
//! commands work as printed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::unistd::Uid;

use crate::scheduler;
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Process, binary, cloacinactl};
use crate::support::server::Server;
use crate::support::wait_for;

const README: &str = include_str!("../../README.md");

/// The first words in backticks of each row of a table that begins with such a word.
fn rows(start: &str) -> BTreeSet<String> {
    let first = |line: &str| line.strip_prefix("| `")?.split('`').next().map(str::to_owned);
    README.lines().filter_map(first).filter(|word| word.starts_with(start)).collect()
}

#[test]
fn the_settings_are_those_of_serve() {
    let help = Process::start(cloacinactl(["serve", "--help"])).ended().expect_code(0).stdout;
    let flags: BTreeSet<String> = help
        .split("Flags of every command")
        .next()
        .unwrap()
        .split("\n  --")
        .skip(1)
        // `--check` is a flag, but no setting.
        .filter(|flag| flag.contains("[env: "))
        .map(|flag| format!("--{}", flag.split_whitespace().next().unwrap()))
        .collect();
    assert!(flags.len() > 10, "{help}");
    assert_eq!(rows("--"), flags);
    for line in help.lines().filter_map(|line| line.trim().strip_prefix("[env: ")) {
        let (variable, rest) = line.trim_end_matches(']').split_once(", key: ").unwrap();
        let (key, default) = rest.split_once(", default: ").unwrap_or((rest, ""));
        let row = README.lines().find(|row| row.contains(&format!("| `{variable}` | `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("the README has no row for {variable} and {key}"));
        assert!(
            default.is_empty() || row.contains(&format!("| `{default}`")),
            "{row}: the default is {default}"
        );
    }
}

#[test]
fn the_endpoints_are_those_of_the_server() {
    let database = Database::new();
    let server = Server::start(&database);
    let printed: BTreeSet<String> = server
        .stdout_with("/auth/verify")
        .lines()
        .filter_map(|line| line.split_once(" -- "))
        .map(|(route, _)| {
            let segment = |segment: &str| match segment.strip_prefix(':') {
                Some(name) => format!("{{{name}}}"),
                None => segment.to_owned(),
            };
            let route = route.trim().replace("DEL ", "DELETE ");
            route.split('/').map(segment).collect::<Vec<_>>().join("/")
        })
        .collect();
    let described: BTreeSet<String> =
        ["GET ", "POST ", "PATCH ", "DELETE "].into_iter().flat_map(rows).collect();
    assert_eq!(described, printed);
}

/// What the commands of the block with this number print, on this server.
fn typed(number: usize, server: &Server, before: &str) -> String {
    let block = README.split("```sh\n").nth(number).unwrap().split("```").next().unwrap();
    let typed = block
        .replace("http://localhost:8080", &format!("http://{}", server.address))
        .replace("~/.cloacina", server.home().to_str().unwrap());
    let typed = format!("{before}\n{typed}");
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", &typed]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

#[test]
fn the_commands_work_as_printed() {
    let database = Database::new();
    let server = Server::start(&database);
    let stdout = typed(1, &server, "");
    assert_eq!(stdout.matches("\"name\": \"ci-deploy\"").count(), 2, "{stdout}");
    assert!(
        stdout.contains("\"permissions\": \"read\"") && stdout.contains("\"expires_at\": \""),
        "{stdout}"
    );
}

#[test]
fn the_commands_for_tenants_work_as_printed() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let server = Server::start(&database);
    let stdout = typed(2, &server, &format!("API_KEY={}", server.bootstrap_key()));
    let answers: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&stdout).into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.len(), 4, "{stdout}");
    assert_eq!(answers[0]["connection_string"], serde_json::Value::Null);
    let login = answers[1]["connection_string"].as_str().unwrap();
    let mut client = postgres::Client::connect(login, postgres::NoTls).unwrap();
    let row = client.query_one("SELECT schema_name FROM cloacina_views.tenant", &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "globex");
    assert_eq!(answers[2]["keys"].as_array().unwrap().len(), 1);
    assert_eq!(answers[3]["error"], "insufficient permissions");
}

/// From an empty directory to the first run in five commands, and from there to the server.
#[test]
fn the_first_workflow_runs_as_printed() {
    let database = Database::new();
    let server = scheduler::start(&database, &Directory::new(), 2);
    let directory = Directory::new();
    // Root has to name another user, who has to reach the directory.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = if Uid::effective().is_root() { "--task-user nobody" } else { "" };
    let before = format!(
        "cd {}\ncloacinactl() {{ if [ \"$2\" = run ]; then set -- \"$@\" {user}; fi; {} \"$@\"; }}",
        directory.path().display(),
        binary().display()
    );
    let printed = typed(3, &server, &before);
    assert!(printed.contains("hello 1.0.0: 1 task\n"), "{printed}");
    assert!(printed.contains("  | hello from greet\n"), "{printed}");

    let admin = server.bootstrap_key();
    let make = |path: &str, body: &str| server.post(path, &admin, body).expect_status(201).json();
    make("/tenants", r#"{"schema_name":"acme"}"#);
    let key = make("/tenants/acme/keys", r#"{"name":"deploys","permissions":"write"}"#);
    let before = format!("{before}\ncd hello\nACME_KEY={}", key["key"].as_str().unwrap());
    let printed = typed(4, &server, &before);
    let (name, answers) = printed.split_once('\n').unwrap();
    assert_eq!(name, "hello-1.0.0.tar.gz");
    let answers: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(answers).into_iter().map(Result::unwrap).collect();
    assert_eq!((&answers[0]["name"], &answers[0]["version"]), (&"hello".into(), &"1.0.0".into()));
    assert_eq!(answers[1]["tasks"], serde_json::json!(["greet"]));

    wait_for("a host that runs tasks", || {
        let hosts = "SELECT count(*) FROM cloacina_hosts WHERE obstacle IS NULL";
        (database.value::<i64>(hosts) == 1).then_some(())
    });
    let printed = typed(5, &server, &before);
    let (log, execution) = printed.split_once('\n').unwrap();
    assert_eq!(log, "hello from greet");
    let execution: serde_json::Value = serde_json::from_str(execution).unwrap();
    assert_eq!(execution["status"], "Completed", "{execution:#}");
}
