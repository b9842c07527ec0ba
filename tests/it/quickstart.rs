//! `scripts/quickstart.sh`: from nothing to a server and its database, Ctrl-C, and on again with the same keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scratch::{Outcome, outcome};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Ended, Process, binary, children, send_signal};
use crate::support::server::Server;
use crate::support::wait_for;

/// Somebody's home, and the place for the cluster, which as root has to be open to PostgreSQL's user.
struct Newcomer {
    home: Directory,
    data: Directory,
}

impl Newcomer {
    fn new() -> Newcomer {
        let data = Directory::new();
        fs::set_permissions(data.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Newcomer { home: Directory::new(), data }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/quickstart.sh");
        // A shell cannot handle a signal that was ignored when it started, as SIGINT is in a job of a script.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT"])
            .arg(script)
            .args(flags)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("CLOACINA_QUICKSTART_DATA", self.cluster())
            // Built already; a person without this variable has it built.
            .env("CLOACINACTL_BIN", fs::canonicalize(binary()).unwrap())
            .process_group(0);
        command
    }

    fn cluster(&self) -> PathBuf {
        self.data.join("cluster")
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, environment: &[(&str, &str)]) -> Server {
        let mut command = self.command(&["--bind", "127.0.0.1:0"]);
        command.envs(environment.iter().copied());
        Server::serving(Process::start(command), self.home.clone())
    }

    /// What is written behind an indentation of two, as the script prints commands, on the line with this text.
    fn printed_command(&self, server: &Server, text: &str) -> String {
        let printed = server.stdout_with(text);
        let line = printed.lines().find(|line| line.ends_with(text));
        line.unwrap_or_else(|| panic!("no line with {text:?}: {printed}")).trim().to_owned()
    }

    /// In another terminal: with the home and nothing else.
    fn types(&self, line: &str, environment: &[(&str, &str)]) -> Outcome {
        let mut command = Command::new("bash");
        command.args(["-c", line]).env_clear().env("HOME", self.home.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        outcome(command.envs(environment.iter().copied()).output().unwrap())
    }

    fn key(&self) -> String {
        fs::read_to_string(self.home.join(".cloacina/bootstrap-key")).unwrap().trim_end().to_owned()
    }

    /// PostgreSQL's process, while it runs.
    fn postmaster(&self) -> Option<String> {
        let file = fs::read_to_string(self.cluster().join("data/postmaster.pid")).ok()?;
        Some(file.lines().next()?.trim().to_owned())
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // A test that failed half-way must leave neither a server nor its PostgreSQL.
        let cluster = self.cluster();
        let ours = format!("CLOACINA_QUICKSTART_DATA={}", cluster.display());
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for pid in processes.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == ours.as_bytes()) {
                let _ = Command::new("sh").args(["-c", "kill -s KILL -- \"$0\"", &pid]).output();
            }
        }
        if let Some(pid) = self.postmaster() {
            let _ = Command::new("sh").args(["-c", "kill -s QUIT -- \"$0\"", &pid]).output();
        }
    }
}

/// No process, or one that is dead and waits for the system to take notice.
fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
}

fn press_ctrl_c(server: Server) -> Ended {
    send_signal("INT", &format!("-{}", server.pid()));
    server.ended()
}

#[test]
fn from_nothing_and_on_again() {
    let newcomer = Newcomer::new();
    let server = newcomer.start();
    let printed = server.stdout_with("Ctrl-C stops");
    assert_eq!(printed.matches("In another terminal").count(), 1, "{printed}");
    let (endpoints, next) = printed.split_once("In another terminal").unwrap();
    assert!(endpoints.contains("/auth/verify") && !next.contains(" -- "), "behind all endpoints: {printed}");
    assert!(next.contains(&server.address.to_string()), "what to type next has the address: {printed}");
    assert!(next.contains(r#""permissions": "read", "expires_in": "90d""#), "no key for ever: {printed}");
    let admin = newcomer.key();
    let (_, key) = server.create_key(&admin, "ci-deploy");
    let (id, revoked) = server.create_key(&admin, "revoked");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(server.lets_in(&key));
    let postmaster = newcomer.postmaster().expect("the cluster is a private one");

    // A second one at the same time says what is the matter.
    let second = Process::start(newcomer.command(&["--bind", "127.0.0.1:0"])).ended().expect_code(1);
    assert!(second.last_words().contains("already"), "{second:#?}");
    assert!(server.lets_in(&key), "the first one minds nothing");

    press_ctrl_c(server).expect_code(0);
    assert_eq!(newcomer.postmaster(), None, "PostgreSQL was stopped");
    wait_for("PostgreSQL's process to go", || is_gone(&postmaster).then_some(()));

    let server = newcomer.start();
    assert_eq!(newcomer.key(), admin);
    assert!(server.lets_in(&admin));
    assert!(server.lets_in(&key));
    assert!(!server.lets_in(&revoked));
    press_ctrl_c(server).expect_code(0);
}

#[test]
fn after_the_worst_end() {
    let newcomer = Newcomer::new();
    let server = newcomer.start();
    let admin = newcomer.key();
    let postmaster = newcomer.postmaster().unwrap();
    // The script, and with it all that it started, as at a power cut. PostgreSQL's lock file stays.
    let server_pid = server.stdout_with("/auth/keys/:id");
    drop(server_pid);
    kill_tree(server.pid());
    send_signal("KILL", &postmaster);
    let _ = server.ended();
    assert!(newcomer.postmaster().is_some(), "the lock file of a killed PostgreSQL stays");

    let server = newcomer.start();
    assert!(server.lets_in(&admin));
    press_ctrl_c(server).expect_code(0);
}

/// Kills a process and its children, parents first.
fn kill_tree(pid: u32) {
    let children = children(pid);
    let _ = Command::new("sh").args(["-c", "kill -s KILL -- \"$0\"", &pid.to_string()]).output();
    for child in children {
        kill_tree(child);
    }
}

#[test]
fn a_termination_is_passed_on() {
    let newcomer = Newcomer::new();
    let server = newcomer.start();
    // To the script alone, as a supervisor would.
    server.terminate().expect_code(0);
    assert_eq!(newcomer.postmaster(), None);
}

#[test]
fn wrong_flags_leave_nothing_running() {
    let newcomer = Newcomer::new();
    let ended = Process::start(newcomer.command(&["--no-such-flag"])).ended().expect_code(2);
    assert!(ended.stderr.contains("--no-such-flag"), "{ended:#?}");
    assert_eq!(newcomer.postmaster(), None);
}

/// Every line that it prints to be typed, typed.
#[test]
fn what_it_says_to_type_works() {
    let newcomer = Newcomer::new();
    let server = newcomer.start();
    let printed = server.stdout_with("Ctrl-C stops");
    let next = printed.split_once("In another terminal").unwrap().1;
    let commands: Vec<_> = next.split("\n  ").skip(1).collect();
    let typed: String =
        next.lines().filter_map(|line| line.strip_prefix("  ")).map(|line| format!("{line}\n")).collect();
    assert!(commands.len() >= 4 && typed.matches("curl -s").count() == 2, "{printed}");
    let outcome = newcomer.types(&format!("set -e\n{typed}"), &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let made: Vec<_> = outcome.stdout.matches("\"name\":\"ci-deploy\"").collect();
    assert_eq!(made.len(), 2, "{outcome:?}");
    assert!(
        outcome.stdout.lines().any(|line| line.contains("rescue") && line.contains("admin")),
        "{outcome:?}"
    );
    press_ctrl_c(server).expect_code(0);
}

/// Variables of libpq are for other databases; neither the script nor what it says to type may follow them.
#[test]
fn variables_of_another_database_do_not_matter() {
    const FOREIGN: &[(&str, &str)] = &[
        ("PGPORT", "5544"),
        ("PGHOST", "/nowhere"),
        ("PGUSER", "nobody"),
        ("PGDATABASE", "none"),
        ("PGDATA", "/nowhere"),
        ("PGSSLMODE", "verify-full"),
        ("PGOPTIONS", "-c no_such_setting=1"),
        ("PGSERVICE", "none"),
    ];
    let newcomer = Newcomer::new();
    let server = newcomer.start_with(FOREIGN);
    let admin = newcomer.key();
    assert!(server.lets_in(&admin));
    let list = newcomer.printed_command(&server, "keys list");
    let outcome = newcomer.types(&list, &[("PGPORT", "5544"), ("PGHOST", "/nowhere")]);
    assert!(outcome.code == Some(0) && outcome.stdout.contains("bootstrap"), "{outcome:?}");
    press_ctrl_c(server).expect_code(0);
}

#[test]
fn it_says_what_stays_open_to_tasks() {
    let newcomer = Newcomer::new();
    // As root the user of tasks has to pass through it.
    fs::set_permissions(newcomer.home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // It lets everybody in over TCP.
    let database = Database::new();
    let server = newcomer.start_with(&[("DATABASE_URL", &database.url())]);
    let said = server.stderr_with("which leaves open to them:");
    assert!(said.contains("tasks run with --sandbox partial"), "{said}");
    server.stderr_with("  the database, which lets the server's user in without a password at");
    press_ctrl_c(server).expect_code(0);
    // What the caller says counts.
    let server = newcomer.start_with(&[("DATABASE_URL", &database.url()), ("CLOACINA_SANDBOX", "off")]);
    let ended = press_ctrl_c(server).expect_code(0);
    assert!(!ended.stderr.contains("partial"), "{ended:#?}");
}

#[test]
fn a_config_with_a_database_stays_as_it_is() {
    let newcomer = Newcomer::new();
    let home = newcomer.home.join(".cloacina");
    fs::create_dir(&home).unwrap();
    let config = "# mine\ndatabase_url = \"postgresql://u:topsecret@h/d\"\n";
    fs::write(home.join("config.toml"), config).unwrap();
    let server = newcomer.start();
    assert!(server.lets_in(&newcomer.key()), "the private PostgreSQL counts");
    assert_eq!(fs::read_to_string(home.join("config.toml")).unwrap(), config);
    let ended = press_ctrl_c(server).expect_code(0);
    assert!(ended.stderr.contains("config.toml has another database URL"), "{ended:#?}");
    assert!(!ended.stderr.contains("topsecret"), "{ended:#?}");
}
