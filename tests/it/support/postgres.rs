//! PostgreSQL for a run: the one that `TEST_DATABASE_URL` names, else a private cluster that dies with the test
//! process, however that ends. Tests that break PostgreSQL start clusters of their own.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use postgres::{Client, NoTls};

use super::directory;
use super::program::children;

/// The URL of a role that may create databases.
fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<Cluster>)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| match std::env::var("TEST_DATABASE_URL") {
        Ok(url) => {
            drop_old_databases(&url);
            (url, None)
        }
        Err(_) => {
            let cluster = Cluster::start();
            (cluster.url("postgres"), Some(cluster))
        }
    });
    url
}

/// A fresh, empty database, dropped at the end of the test.
pub struct Database {
    admin_url: String,
    name: String,
}

/// What the names of all our databases start with; the second of their creation follows.
const DATABASE_PREFIX: &str = "cloacinactl_it_";

/// A password for where PostgreSQL looks at none.
pub const MADE_UP_PASSWORD: &str = "correct-horse-battery";

impl Database {
    /// In the cluster that all tests share.
    pub fn new() -> Database {
        Database::create(shared_url())
    }

    /// In a cluster of the test's own.
    pub fn in_cluster(cluster: &Cluster) -> Database {
        Database::create(&cluster.url("postgres"))
    }

    fn create(admin_url: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{DATABASE_PREFIX}{now}_{}_{count}", std::process::id());
        connect(admin_url).batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        Database { admin_url: admin_url.to_owned(), name }
    }

    pub fn url(&self) -> String {
        with_database(&self.admin_url, &self.name)
    }

    /// The same with a password in it, and that password. PostgreSQL looks at it only where `TEST_DATABASE_URL`
    /// names one that wants it, so one is made up if there is none.
    pub fn url_with_password(&self) -> (String, String) {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, place) = rest.split_once('@').expect("the database URL should name a user");
        if let Some((_, password)) = user.split_once(':') {
            return (url.clone(), password.to_owned());
        }
        (format!("{scheme}://{user}:{MADE_UP_PASSWORD}@{place}"), MADE_UP_PASSWORD.to_owned())
    }

    /// The same as seen through a proxy at another port of this host.
    pub fn url_through(&self, port: u16) -> String {
        let url = self.url();
        let (before, rest) = url.split_once('@').expect("the database URL should name a user");
        let (_, path) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{port}/{path}")
    }

    /// Where PostgreSQL listens, as `host:port`.
    pub fn host_and_port(&self) -> String {
        let url = self.url();
        let (_, rest) = url.split_once('@').expect("the database URL should name a user");
        let (place, _) = rest.split_once('/').unwrap();
        if place.contains(':') { place.to_owned() } else { format!("{place}:5432") }
    }

    /// A session of the test's own, to look behind the server's back.
    pub fn client(&self) -> Client {
        connect(&self.url())
    }

    /// The one value that a query gives.
    pub fn value<T>(&self, query: &str) -> T
    where
        T: for<'a> postgres::types::FromSql<'a>,
    {
        self.client().query_one(query, &[]).unwrap().get(0)
    }

    pub fn execute(&self, statements: &str) {
        self.client().batch_execute(statements).unwrap();
    }

    /// Whether the server has made its table yet.
    pub fn has_keys_table(&self) -> bool {
        self.value("SELECT to_regclass('api_keys') IS NOT NULL")
    }

    /// All there is in it, as text: tables, columns and rows. Two that are equal say that nothing was changed.
    pub fn contents(&self) -> String {
        let mut client = self.client();
        let columns = client
            .query(
                "SELECT table_name::text, column_name::text, data_type::text, column_default::text
                 FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
                &[],
            )
            .unwrap();
        let mut contents = String::new();
        let mut tables = Vec::new();
        for row in columns {
            let table: String = row.get(0);
            let default: Option<String> = row.get(3);
            contents +=
                &format!("{table}.{} {} {default:?}\n", row.get::<_, String>(1), row.get::<_, String>(2));
            if tables.last() != Some(&table) {
                tables.push(table);
            }
        }
        for table in tables {
            for row in client.query(&format!("SELECT t::text FROM \"{table}\" t ORDER BY 1"), &[]).unwrap() {
                contents += &format!("{table}: {}\n", row.get::<_, String>(0));
            }
        }
        contents
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The cluster of a fault test may be down by now; its databases go with it.
        if let Ok(mut client) = Client::connect(&self.admin_url, NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

fn connect(url: &str) -> Client {
    Client::connect(url, NoTls).unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
}

/// The URL with another database in its path; what follows a `?` stays.
fn with_database(url: &str, name: &str) -> String {
    let (before, query) = match url.split_once('?') {
        Some((before, query)) => (before, format!("?{query}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = before.split_once("://").expect("TEST_DATABASE_URL should be postgresql://…");
    let place = rest.split('/').next().unwrap_or(rest);
    format!("{scheme}://{place}/{name}{query}")
}

/// Removes what killed runs left in a PostgreSQL that outlives them. An hour is longer than any run.
fn drop_old_databases(url: &str) {
    let mut client = connect(url);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for row in client.query("SELECT datname::text FROM pg_database", &[]).unwrap() {
        let name: String = row.get(0);
        let made = name
            .strip_prefix(DATABASE_PREFIX)
            .and_then(|rest| rest.split('_').next())
            .and_then(|second| second.parse::<u64>().ok());
        if made.is_some_and(|made| made + 3600 < now) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        }
    }
}

/// A private PostgreSQL: data, socket and log in one directory, a TCP port on 127.0.0.1, role `postgres`, no
/// password. A supervising shell stops it and removes the directory when the test process ends in whatever way.
pub struct Cluster {
    programs: Programs,
    directory: PathBuf,
    port: u16,
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
        let programs = Programs::find();
        programs.remove_leftovers();
        let directory = directory::fresh_path("pg");
        fs::create_dir(&directory).unwrap();
        let supervisor = programs.supervise(&directory);
        let mut cluster = Cluster { programs, directory, port: 0, supervisor };
        if let Some((user, group)) = cluster.programs.run_as {
            std::os::unix::fs::chown(&cluster.directory, Some(user), Some(group)).unwrap();
        }
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
             synchronous_commit = off\nfull_page_writes = off\nmax_connections = 300\n\
             shared_buffers = 32MB\nlog_min_messages = warning\n",
            cluster.directory.display()
        );
        let path = data.join("postgresql.conf");
        let defaults = fs::read_to_string(&path).unwrap();
        fs::write(&path, defaults + &settings).unwrap();
        // Somebody may take the port between our look and PostgreSQL's.
        for attempt in 1.. {
            cluster.port = free_port();
            if cluster.try_restart() {
                break;
            }
            assert!(attempt < 5, "PostgreSQL does not start: {}", cluster.log());
        }
        cluster
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
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
        let started = self
            .programs
            .command("pg_ctl")
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

    /// The postmaster and all its children, for signals of the worse kind.
    #[expect(dead_code, reason = "for the fault tests to come")]
    pub fn pids(&self) -> Vec<u32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let postmaster: u32 = file.lines().next().unwrap().trim().parse().unwrap();
        let mut pids = vec![postmaster];
        pids.extend(children(postmaster));
        pids
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
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
        let words = self.words(program);
        let mut command = Command::new(&words[0]);
        // Our own directory may be closed to that user.
        command.args(&words[1..]).current_dir("/").env_remove("PGDATA").stdin(Stdio::null());
        command
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
fn free_port() -> u16 {
    loop {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let port = 15_000 + u16::from_le_bytes(random) % 15_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn expect_success(what: &str, result: std::io::Result<Output>) {
    let output = result.unwrap_or_else(|error| panic!("cannot run {what}: {error}"));
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
