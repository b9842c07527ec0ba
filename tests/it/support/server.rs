//! A running `cloacinactl serve` on a port of its own, and the ways to start one.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::directory::Directory;
use super::footprint::Footprint;
use super::http::{self, Response};
use super::made::Made;
use super::metrics::Sample;
use super::postgres::Database;
use super::program::{Ended, Process, binary, cloacinactl};

/// How to start a server; each test says only what is special about it.
pub struct Start {
    home: Directory,
    home_path: Option<PathBuf>,
    database_url: Option<String>,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    /// What a shell does first.
    prelude: Option<String>,
    passed: Option<TcpListener>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

/// Plays systemd's part: the socket that came as standard input becomes the first of those that are passed.
const PASS_SOCKET: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1";

impl Start {
    /// On this database, on a free port, with a home that does not outlive the server.
    pub fn on(database: &Database) -> Start {
        Start::without_database().database_url(&database.url())
    }

    /// Nothing said about the database.
    pub fn without_database() -> Start {
        Start {
            home: Directory::new(),
            home_path: None,
            database_url: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            prelude: None,
            passed: None,
            stdout: None,
            stderr: None,
        }
    }

    pub fn database_url(mut self, url: &str) -> Start {
        self.database_url = Some(url.to_owned());
        self
    }

    /// A home that other servers have had, or will have.
    pub fn home(mut self, home: &Directory) -> Start {
        self.home = home.clone();
        self
    }

    /// A home at a path of the test's choice.
    pub fn home_at(mut self, path: PathBuf) -> Start {
        self.home_path = Some(path);
        self
    }

    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Start {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Start {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Started by a shell that has done this before.
    pub fn after(mut self, prelude: &str) -> Start {
        self.prelude = Some(prelude.to_owned());
        self
    }

    /// With a standard output that the test does not see.
    pub fn stdout(mut self, output: Stdio) -> Start {
        self.stdout = Some(output);
        self
    }

    /// With a standard error that the test does not see.
    pub fn stderr(mut self, output: Stdio) -> Start {
        self.stderr = Some(output);
        self
    }

    /// With a listening socket that outlives it, passed as systemd passes one.
    pub fn on_socket(mut self, listener: &TcpListener) -> Start {
        self.passed = Some(listener.try_clone().unwrap());
        self.after(PASS_SOCKET)
    }

    fn command(&self) -> Command {
        let home = self.home_path.clone().unwrap_or_else(|| self.home.path().to_owned());
        let words = ["--home".into(), home.into_os_string(), "serve".into()];
        let mut command = match &self.prelude {
            None => cloacinactl(words),
            Some(prelude) => {
                let mut command = Command::new("sh");
                command.env_clear().args(["-c", &format!("{prelude}; exec \"$@\""), "sh"]);
                command.arg(binary()).args(words);
                command
            }
        };
        let says_bind =
            self.arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--bind"));
        if !says_bind {
            command.args(["--bind", "127.0.0.1:0"]);
        }
        if let Some(url) = &self.database_url {
            command.args(["--database-url", url]);
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn process(&mut self) -> Process {
        let mut command = self.command();
        command.stdin(match &self.passed {
            None => Stdio::null(),
            Some(listener) => OwnedFd::from(listener.try_clone().unwrap()).into(),
        });
        command.stdout(self.stdout.take().unwrap_or_else(Stdio::piped));
        command.stderr(self.stderr.take().unwrap_or_else(Stdio::piped));
        Process::start_as_it_is(command)
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn serving(mut self) -> Server {
        let address_is_printed = self.stdout.is_none();
        let process = self.process();
        match address_is_printed {
            true => Server::serving(process, self.home),
            false => Server::serving_silently(process, self.home),
        }
    }

    /// Starts it without waiting for anything.
    pub fn starting(mut self) -> Starting {
        let process = self.process();
        Starting { process, home: self.home }
    }

    /// Starts one that cannot serve, and waits until it has said so.
    #[track_caller]
    pub fn failing(mut self) -> Ended {
        let ended = self.process().ended();
        assert!(!ended.status.success(), "the start should have failed: {ended:#?}");
        ended
    }
}

/// A server of which nobody knows yet whether it will serve.
pub struct Starting {
    process: Process,
    home: Directory,
}

impl Starting {
    pub fn stderr(&self) -> String {
        self.process.stderr.text()
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn ended(self) -> Ended {
        self.process.ended()
    }

    /// Ends it as a power cut would, wherever it is.
    pub fn kill(mut self) {
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
    }

    #[track_caller]
    pub fn serving(self) -> Server {
        Server::serving(self.process, self.home)
    }
}

/// A server that serves, until it is dropped.
pub struct Server {
    process: Process,
    pub address: SocketAddr,
    home: Directory,
}

impl Server {
    /// The usual one.
    #[track_caller]
    pub fn start(database: &Database) -> Server {
        Start::on(database).serving()
    }

    /// Leaves a database as the first start does, but without a key.
    pub fn migrate(database: &Database) {
        drop(Server::start(database));
        database.execute("DELETE FROM api_keys");
    }

    /// Waits for the line that names the address.
    #[track_caller]
    pub fn serving(process: Process, home: Directory) -> Server {
        let address = process.stdout.wait(|printed| {
            let rest = printed.split_once("API server is running on http://")?.1;
            rest.split_once('\n')?.0.trim_end().parse().ok()
        });
        let Some(address) = address else {
            panic!("no server\nstdout: {}\nstderr: {}", process.stdout.text(), process.stderr.text());
        };
        Server { process, address, home }
    }

    /// Waits for the line of its log that names the address.
    #[track_caller]
    fn serving_silently(process: Process, home: Directory) -> Server {
        let file = home.path().join("logs/cloacina-server.log");
        let address = crate::support::wait_for("its log to name the address", || {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let (_, rest) = log.split_once("\"address\":\"")?;
            rest.split_once('"')?.0.parse().ok()
        });
        Server { process, address, home }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn footprint(&self) -> Footprint {
        Footprint::of(self.pid())
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        self.process.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.process.stderr.text()
    }

    /// Waits for a line on stdout or the end of it.
    #[track_caller]
    pub fn stdout_with(&self, text: &str) -> String {
        self.process
            .stdout
            .wait(|printed| printed.contains(text).then(|| printed.to_owned()))
            .unwrap_or_else(|| panic!("no {text:?} on stdout: {}", self.stdout()))
    }

    /// Waits for a line of the log on stderr, which is written a moment after what it is about.
    #[track_caller]
    pub fn stderr_with(&self, text: &str) -> String {
        self.process
            .stderr
            .wait(|printed| printed.contains(text).then(|| printed.to_owned()))
            .unwrap_or_else(|| panic!("no {text:?} on stderr: {}", self.stderr()))
    }

    /// Waits for a line of the log file that has all of these in it.
    #[track_caller]
    pub fn log_line(&self, parts: &[&str]) -> serde_json::Value {
        let line = crate::support::wait_for(&format!("a line with {parts:?} in the log"), || {
            let log = self.log();
            let found = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            found.map(str::to_owned)
        });
        serde_json::from_str(&line).unwrap()
    }

    /// The key that the first start made.
    #[track_caller]
    pub fn bootstrap_key(&self) -> String {
        let path = self.home().join("bootstrap-key");
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
            .trim_end()
            .to_owned()
    }

    #[track_caller]
    pub fn get(&self, path: &str, key: Option<&str>) -> Response {
        http::exchange(self.address, &http::request("GET", path, key, None))
    }

    #[track_caller]
    pub fn delete(&self, path: &str, key: &str) -> Response {
        http::exchange(self.address, &http::request("DELETE", path, Some(key), None))
    }

    #[track_caller]
    pub fn post(&self, path: &str, key: &str, json: &str) -> Response {
        http::exchange(self.address, &http::request("POST", path, Some(key), Some(json)))
    }

    #[track_caller]
    pub fn patch(&self, path: &str, key: &str, json: &str) -> Response {
        http::exchange(self.address, &http::request("PATCH", path, Some(key), Some(json)))
    }

    /// Makes a key from this body and hands back what was answered.
    #[track_caller]
    pub fn make_key(&self, admin: &str, body: &str) -> Made {
        Made(self.post("/auth/keys", admin, body).expect_status(201).json())
    }

    /// Makes a key and hands back its id and itself.
    #[track_caller]
    pub fn create_key(&self, admin: &str, name: &str) -> (String, String) {
        let body = serde_json::json!({ "name": name }).to_string();
        let made = self.post("/auth/keys", admin, &body).expect_status(201).json();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    /// Whether this key is let in; anything but 200 and the refusal of the contract fails the test.
    #[track_caller]
    pub fn lets_in(&self, key: &str) -> bool {
        self.accepts("/auth/keys?limit=1", key)
    }

    /// Whether this key, whatever it may do, is a valid one; anything but 200 and the refusal of the contract fails
    /// the test.
    #[track_caller]
    pub fn knows(&self, key: &str) -> bool {
        self.accepts("/auth/whoami", key)
    }

    #[track_caller]
    fn accepts(&self, path: &str, key: &str) -> bool {
        let response = self.get(path, Some(key));
        match response.status {
            200 => true,
            _ => {
                response.expect(401, r#"{"error":"invalid or revoked API key"}"#);
                false
            }
        }
    }

    /// Asserts that an ordinary client is served as always.
    #[track_caller]
    pub fn expect_well(&mut self, after: &str) {
        assert!(self.is_running(), "the server is gone after {after}: {}", self.stderr());
        let response = self.get("/health", None);
        assert_eq!((response.status, response.text()), (200, r#"{"status":"ok"}"#), "after {after}");
    }

    pub fn metrics(&self) -> Vec<Sample> {
        super::metrics::parse(self.get("/metrics", None).expect_status(200).text())
    }

    /// The sum of a family's samples that have these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        super::metrics::sum(&self.metrics(), name, labels)
    }

    /// Waits for all sessions of a pool of the default size: they are opened once the server serves, and none can be
    /// while the table is locked.
    pub fn wait_for_pool(&self) {
        crate::support::wait_for("the pool to be full", || {
            (self.metric("cloacina_db_pool_size", &[]) >= 8.0).then_some(())
        });
    }

    /// The lines of the log file, as they are now.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home().join("logs/cloacina-server.log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.signal("TERM");
        self.process.ended()
    }

    /// Waits for an end that a signal of the test's own brings.
    #[track_caller]
    pub fn ended(self) -> Ended {
        self.process.ended()
    }
}
