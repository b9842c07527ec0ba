//! Tenants that reach PostgreSQL through PgBouncer, which hands out its sessions by transaction, and servers that do.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use postgres::{Client, NoTls};
use serde_json::json;

use super::site::{Site, guarded};
use crate::support::cluster::free_port;
use crate::support::directory::Directory;
use crate::support::front::installed;
use crate::support::postgres::{Database, MADE_UP_PASSWORD};
use crate::support::program::Process;
use crate::support::server::Start;
use crate::support::wait_for;

/// A PgBouncer before the PostgreSQL that roles have to log in to.
struct Pooler {
    port: u16,
    _process: Process,
    _directory: Directory,
}

impl Pooler {
    /// `rest`: further lines of its settings. It knows the password of this user itself.
    fn start(user: &str, rest: &str) -> Pooler {
        let (directory, port) = (Directory::new(), free_port());
        let path = directory.path().to_owned();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let (users, settings) = (path.join("users"), path.join("pgbouncer.ini"));
        fs::write(&users, format!("\"{user}\" \"{MADE_UP_PASSWORD}\"\n")).unwrap();
        fs::write(
            &settings,
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
                 ignore_startup_parameters = extra_float_digits,options\n{rest}\n",
                guarded().port(),
                users.display()
            ),
        )
        .unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        // It refuses to be root.
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg("--").arg(installed("pgbouncer")).arg("-q").arg(settings);
        let process = Process::start(command);
        wait_for("PgBouncer to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        Pooler { port, _process: process, _directory: directory }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

#[test]
fn a_tenant_s_role_works_through_it() {
    let database = Database::in_cluster(guarded());
    let (_, asker) = database.url_of_new_role();
    database.execute(&format!("ALTER ROLE {asker} SUPERUSER"));
    let ask = "auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1";
    let pooler = Pooler::start(&asker, &format!("auth_user = {asker}\n{ask}\npool_mode = transaction"));
    let site = Site::start_with(database, ["--tenant-database-host", &pooler.address()]);
    for _ in 0..2 {
        let made = site.tenant_with_role("t");
        assert!(made.text("connection_string").contains(&format!("@{}/", pooler.address())));
        let mut session = made.session();
        session.batch_execute("CREATE TABLE t (n int)").unwrap();
        let schema = session.simple_query("SELECT current_schema(), * FROM cloacina_views.tenant").unwrap();
        assert!(format!("{schema:?}").contains(made.name()), "{schema:?}");
        site.remove(made.name());
        assert!(made.login().is_err());
    }
}

/// It has to be told how to find out the passwords of roles that are made later; else tenants need another address.
#[test]
fn a_pooler_that_knows_no_new_role_is_named() {
    let database = Database::in_cluster(guarded());
    let (url, role) = database.url_of_new_role();
    database.execute(&format!("ALTER ROLE {role} SUPERUSER"));
    let pooler = Pooler::start(&role, "pool_mode = session");
    let url = url.replace(&database.host_and_port(), &pooler.address());
    let server = Start::without_database().database_url(&url).serving();
    let name = format!("{}_t", database.name());
    let body = json!({ "schema_name": name, "username": name }).to_string();
    let refused = server.post("/tenants", &server.bootstrap_key(), &body).expect_status(503).error();
    assert!(
        refused.contains(
            "(PgBouncer: auth_query), or name another address for tenants with --tenant-database-host"
        ),
        "{refused}"
    );

    let at = database.host_and_port();
    let second =
        Start::without_database().database_url(&url).arguments(["--tenant-database-host", &at]).serving();
    let made = second.post("/tenants", &server.bootstrap_key(), &body).expect_status(201).json();
    let mut session = Client::connect(made["connection_string"].as_str().unwrap(), NoTls).unwrap();
    session.batch_execute("CREATE TABLE t (n int)").unwrap();
}
