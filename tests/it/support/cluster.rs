//! Private PostgreSQL clusters that die with the test process, however that ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use super::directory;
use super::program::{children, send_signal};
use super::rust_source::ROOT;
use super::wait_for;

/// A private PostgreSQL: data, socket and log in one directory, a TCP port on 127.0.0.1, role `postgres`, no
/// password. A supervising shell stops it and removes the directory when the test process ends in whatever way.
pub struct Cluster {
    programs: Programs,
    directory: PathBuf,
    port: u16,
    /// How far its clock is off, as faketime takes it.
    clock: Option<&'static str>,
    /// Ends when its standard input is closed, which the kernel does when we are killed.
    supervisor: Child,
}

/// Waits for the test process to go, then cleans up. Signals that the terminal sends to the whole group are not for
/// it: it has to be the last to go.
const SUPERVISE: &str = r#"
trap '' INT TERM HUP
directory=$1
shift
read -r _
"$@" -D "$directory/data" -m immediate stop
rm -rf "$directory"
"#;

impl Cluster {
    pub fn start() -> Cluster {
        Cluster::start_at(None)
    }

    /// One of this major version, where the run's own is an earlier one.
    pub fn since(major: u32) -> Cluster {
        Cluster::start_with(Programs::since(major), None)
    }

    /// One whose clock is off by so much, such as `+1h`, while it runs as fast as ours.
    pub fn with_clock(off: &'static str) -> Cluster {
        Cluster::start_at(Some(off))
    }

    fn start_at(clock: Option<&'static str>) -> Cluster {
        Cluster::start_with(Programs::find(), clock)
    }

    fn start_with(programs: Programs, clock: Option<&'static str>) -> Cluster {
        let mut cluster = Cluster::without_data(programs, clock);
        let data = cluster.data();
        let made = cluster
            .programs
            .command("initdb")
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output();
        expect_success("initdb", made);
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\n\
             full_page_writes = off\nmax_connections = 300\n\
             shared_buffers = 32MB\nlog_min_messages = warning\n",
            cluster.directory.display()
        );
        cluster.first_start(&settings);
        cluster
    }

    /// A standby that follows this one and applies what it hears of with this delay.
    pub fn standby(&self, delay: &str) -> Cluster {
        let mut standby = Cluster::without_data(self.programs.clone(), self.clock);
        let copied = standby
            .programs
            .command("pg_basebackup")
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()])
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
            .arg(standby.data())
            .output();
        expect_success("pg_basebackup", copied);
        let settings = format!(
            "unix_socket_directories = '{}'\nrecovery_min_apply_delay = '{delay}'\n",
            standby.directory.display()
        );
        standby.first_start(&settings);
        standby
    }

    /// Makes a standby a primary, and waits until it is one.
    pub fn promote(&self) {
        let promoted =
            self.programs.command("pg_ctl").arg("-D").arg(self.data()).args(["-w", "promote"]).output();
        expect_success("pg_ctl promote", promoted);
    }

    fn without_data(programs: Programs, clock: Option<&'static str>) -> Cluster {
        programs.remove_leftovers();
        let directory = directory::fresh_path("pg");
        fs::create_dir(&directory).unwrap();
        let supervisor = programs.supervise(&directory);
        let cluster = Cluster { programs, directory, port: 0, clock, supervisor };
        if let Some((user, group)) = cluster.programs.run_as {
            std::os::unix::fs::chown(&cluster.directory, Some(user), Some(group)).unwrap();
        }
        cluster
    }

    fn first_start(&mut self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let defaults = fs::read_to_string(&path).unwrap();
        fs::write(&path, defaults + settings).unwrap();
        // Somebody may take the port between our look and PostgreSQL's.
        for attempt in 1.. {
            self.port = free_port();
            if self.try_restart() {
                break;
            }
            assert!(attempt < 5, "PostgreSQL does not start: {}", self.log());
        }
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A program that is of the same version.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.directory.join(name)
    }

    /// Where its Unix socket is.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// A copy of a file among its data, under this name, for nobody else to read.
    pub fn put(&self, name: &str, file: &Path) {
        let path = self.data().join(name);
        fs::write(&path, fs::read(file).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = self.programs.run_as {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).unwrap();
        }
    }

    /// Starts it anew with further settings, and with these rules in place of its pg_hba.conf.
    pub fn configure(&self, settings: &str, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
        self.set(settings);
    }

    /// Starts it anew with further settings.
    pub fn set(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        fs::write(&path, fs::read_to_string(&path).unwrap() + settings + "\n").unwrap();
        self.stop_immediately();
        self.restart();
    }

    /// Like a power cut: every session is gone, nothing is said.
    pub fn stop_immediately(&self) {
        let stopped = self
            .programs
            .command("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-m", "immediate", "-w", "stop"])
            .output();
        expect_success("pg_ctl stop", stopped);
    }

    /// Up again, at the same port with the same data.
    pub fn restart(&self) {
        assert!(self.try_restart(), "PostgreSQL does not start again: {}", self.log());
    }

    fn try_restart(&self) -> bool {
        let mut pg_ctl = match self.clock {
            None => self.programs.command("pg_ctl"),
            Some(off) => self.programs.command_at(off, "pg_ctl"),
        };
        let started = pg_ctl
            .arg("-D")
            .arg(self.data())
            .arg("-l")
            .arg(self.directory.join("log"))
            .args(["-o", &format!("-p {}", self.port), "-w", "-t", "60", "start"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        started.success()
    }

    /// Stops all its processes where they are: connections stay, and nobody answers, until this is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        self.signal("STOP");
        Frozen(self)
    }

    /// To the postmaster, and then, when that cannot make new ones any more, to its children.
    fn signal(&self, signal: &str) {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let postmaster: u32 = file.lines().next().unwrap().trim().parse().unwrap();
        send_signal(signal, &postmaster.to_string());
        if signal == "STOP" {
            // It may be in the middle of making one.
            wait_for("the postmaster to stand still", || {
                let status = fs::read_to_string(format!("/proc/{postmaster}/status")).unwrap();
                status.contains("State:\tT").then_some(())
            });
        }
        for child in children(postmaster) {
            // It may be gone by now.
            let _ = Command::new("sh")
                .args(["-c", "kill -s \"$0\" \"$1\" 2>&-", signal, &child.to_string()])
                .status();
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// All that it has written into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_else(|error| error.to_string())
    }
}

/// A cluster whose processes are stopped.
pub struct Frozen<'a>(&'a Cluster);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
        if self.clock.is_some() {
            remove_leftovers_of_faketime();
        }
    }
}

/// Its library keeps a file in shared memory for each process, and a process that is killed leaves it there.
fn remove_leftovers_of_faketime() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"));
        if id.is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// PostgreSQL's server programs, and whom to run them as: they refuse to be root.
#[derive(Clone)]
struct Programs {
    directory: PathBuf,
    run_as: Option<(u32, u32)>,
}

impl Programs {
    fn find() -> Programs {
        let on_path = std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .map(|directory| directory.join("initdb"))
            .find_map(|initdb| fs::canonicalize(initdb).ok())
            .and_then(|initdb| initdb.parent().map(Path::to_owned));
        let directory = on_path.or_else(newest_of_debian).unwrap_or_else(|| {
            panic!(
                "the tests need PostgreSQL: install its server programs (on Debian or Ubuntu: apt-get install \
                 postgresql), or put `initdb` on the PATH, or set TEST_DATABASE_URL to the postgresql:// URL of \
                 a role that may create databases"
            )
        });
        let run_as = (id("-u", None) == Some(0)).then(|| {
            ["postgres", "nobody"]
                .iter()
                .find_map(|user| Some((id("-u", Some(user))?, id("-g", Some(user))?)))
                .expect(
                    "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`",
                )
        });
        Programs { directory, run_as }
    }

    fn since(major: u32) -> Programs {
        static UNPACKED: Mutex<BTreeMap<u32, PathBuf>> = Mutex::new(BTreeMap::new());
        let found = Programs::find();
        if found.major() >= major {
            return found;
        }
        let mut unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = unpacked.entry(major).or_insert_with(|| {
            let mut script = Command::new("scripts/install-postgres.sh");
            let made = script.arg(major.to_string()).current_dir(ROOT).output();
            let made = expect_success("scripts/install-postgres.sh", made);
            PathBuf::from(String::from_utf8(made.stdout).unwrap().trim_end())
        });
        Programs { directory: directory.clone(), ..found }
    }

    fn major(&self) -> u32 {
        // postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
        let said = expect_success("postgres --version", self.command("postgres").arg("--version").output());
        let said = String::from_utf8(said.stdout).unwrap();
        let version = said.split(' ').nth(2).unwrap();
        version.trim_end().split(['.', 'b', 'r', 'd']).next().unwrap().parse().unwrap()
    }

    /// The words that run a program as the user it needs.
    fn words(&self, program: &str) -> Vec<OsString> {
        let mut words = Vec::new();
        if let Some((user, group)) = self.run_as {
            words.push("setpriv".into());
            words.push(format!("--reuid={user}").into());
            words.push(format!("--regid={group}").into());
            words.push("--clear-groups".into());
        }
        words.push(self.directory.join(program).into());
        words
    }

    fn command(&self, program: &str) -> Command {
        Programs::run(&self.words(program))
    }

    fn run(words: &[OsString]) -> Command {
        let mut command = Command::new(&words[0]);
        // Our own directory may be closed to that user.
        command.args(&words[1..]).current_dir("/").env_remove("PGDATA").stdin(Stdio::null());
        command
    }

    /// The same with a clock that is off. Its files keep their times, and what it waits for takes as long as ever.
    fn command_at(&self, off: &str, program: &str) -> Command {
        // The program faketime itself would wait for all that it starts, so it only says where its library is.
        let library = Command::new("faketime").args(["-f", off, "printenv", "LD_PRELOAD"]).output();
        let library = library.expect("the tests need faketime: run scripts/install-tools.sh faketime");
        let library = String::from_utf8(library.stdout).unwrap();
        // For PostgreSQL's user alone: what the library leaves behind belongs to the user that loads it first.
        let clock = ["env", &format!("LD_PRELOAD={}", library.trim()), &format!("FAKETIME={off}")];
        let still = ["FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"];
        let mut words = self.words(program);
        let at = words.len() - 1;
        words.splice(at..at, clock.into_iter().chain(still).map(OsString::from));
        Programs::run(&words)
    }

    fn supervise(&self, directory: &Path) -> Child {
        Command::new("sh")
            .args(["-c", SUPERVISE, "sh"])
            .arg(directory)
            .args(self.words("pg_ctl"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Clusters of runs whose supervisor was killed, too.
    fn remove_leftovers(&self) {
        directory::sweep("pg", |left| {
            if left.join("data/postmaster.pid").exists() {
                let _ = self
                    .command("pg_ctl")
                    .arg("-D")
                    .arg(left.join("data"))
                    .args(["-m", "immediate", "stop"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
            let _ = fs::remove_dir_all(left);
        });
    }
}

/// Debian keeps a directory for each major version, off the PATH.
fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("initdb").exists())
        .max()
        .map(|(_, programs)| programs)
}

/// What `id` says about a user, or about us.
fn id(which: &str, user: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(which).args(user).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Below the range that the kernel hands out for port 0, so that a cluster can come back at the same port.
pub fn free_port() -> u16 {
    loop {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let port = 15_000 + u16::from_le_bytes(random) % 15_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn expect_success(what: &str, result: std::io::Result<Output>) -> Output {
    let output = result.unwrap_or_else(|error| panic!("cannot run {what}: {error}"));
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
