//! The static program on a host that holds nothing else: its root directory has that one file in it, and where the
//! database has a name, `/etc/hosts` or the `/etc/resolv.conf` that leads to a name server. Only the static program can
//! start there, and only root can make such a host, so these tests wait for `scripts/test.sh --static`.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

use crate::support::directory::Directory;
use crate::support::nameserver::NameServer;
use crate::support::postgres::Database;
use crate::support::program::{Ended, Process, binary};
use crate::support::server::Server;

/// The name of the database's host.
const NAME: &str = "db.cloacina.test";

struct BareHost {
    root: Directory,
}

impl BareHost {
    fn new() -> BareHost {
        let host = BareHost { root: Directory::new() };
        // Not by ourselves: while another test starts a process, that has our open files, and one that is open for writing
        // cannot be run.
        let copied = Command::new("cp").arg(binary()).arg(host.root.join("cloacinactl")).status();
        assert!(copied.unwrap().success());
        let version = host.run(&["--version"]);
        assert!(
            version.status.success(),
            "CLOACINACTL_BIN should name the static program, and root should run this: {version:#?}"
        );
        host
    }

    /// With a file in its `/etc`.
    fn with(self, name: &str, text: &str) -> BareHost {
        fs::create_dir_all(self.root.join("etc")).unwrap();
        fs::write(self.root.join("etc").join(name), text).unwrap();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.env_clear().arg("--root").arg(self.root.path()).args([
            "--wd=/",
            "/cloacinactl",
            "--home=/home",
        ]);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Process::start(self.command(arguments)).ended()
    }

    fn serving(&self, url: &str) -> Server {
        let arguments = ["serve", "--bind=127.0.0.1:0", "--database-url", url];
        Server::serving(Process::start(self.command(&arguments)), self.root.clone())
    }

    fn bootstrap_key(&self) -> String {
        fs::read_to_string(self.root.join("home/bootstrap-key")).unwrap().trim_end().to_owned()
    }
}

/// The database's address, and its URL with a name in place of that.
fn named(database: &Database) -> (SocketAddrV4, String) {
    let address: SocketAddrV4 =
        database.host_and_port().parse().expect("the tests' PostgreSQL has an IPv4 address");
    let url = database.url().replace(&address.to_string(), &format!("{NAME}:{}", address.port()));
    (address, url)
}

#[test]
#[ignore = "needs root and the static program: scripts/test.sh --static"]
fn the_one_file_is_all_it_takes() {
    let database = Database::new();
    let host = BareHost::new();
    let mut server = host.serving(&database.url());
    let admin = host.bootstrap_key();
    let (id, key) = server.create_key(&admin, "ci-deploy");
    assert!(server.lets_in(&key));
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(!server.lets_in(&key));
    assert_eq!(server.metric("cloacina_up", &[]), 1.0);
    server.expect_well("all that");
    let url = format!("http://{}", server.address);
    host.run(&["health", "--url", &url]).expect_code(0);
    let listed = host.run(&["keys", "list", "--database-url", &database.url()]).expect_code(0);
    assert!(listed.stdout.contains("ci-deploy"), "{listed:#?}");
    server.terminate().expect_code(0);
    let log = fs::read_to_string(host.root.join("home/logs/cloacina-server.log")).unwrap();
    assert!(log.contains("\"ci-deploy\""), "{log}");
    let mut holds: Vec<PathBuf> =
        fs::read_dir(host.root.path()).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    holds.sort();
    assert_eq!(holds, [PathBuf::from("cloacinactl"), PathBuf::from("home")]);
}

#[test]
#[ignore = "needs root and the static program: scripts/test.sh --static"]
fn the_hosts_file_names_the_database() {
    let database = Database::new();
    let (address, url) = named(&database);
    let host = BareHost::new().with("hosts", &format!("{} {NAME}\n", address.ip()));
    let server = host.serving(&url);
    assert!(server.lets_in(&host.bootstrap_key()));
}

#[test]
#[ignore = "needs root and the static program: scripts/test.sh --static"]
fn a_name_server_names_the_database() {
    let database = Database::new();
    let (address, url) = named(&database);
    let names = NameServer::start(NAME, vec![*address.ip()]);
    let host = BareHost::new().with("resolv.conf", &format!("nameserver {}\n", names.address));
    let server = host.serving(&url);
    assert!(server.lets_in(&host.bootstrap_key()));
    assert!(names.asked_by_udp() > 0);
    assert_eq!(names.asked_by_tcp(), 0);
}

#[test]
#[ignore = "needs root and the static program: scripts/test.sh --static"]
fn an_answer_that_does_not_fit_is_asked_for_by_tcp() {
    let database = Database::new();
    let (address, url) = named(&database);
    // More than the 512 bytes of a datagram; PostgreSQL listens at the last of them.
    let mut addresses: Vec<_> = (1..40).map(|last| [127, 9, 9, last].into()).collect();
    addresses.push(*address.ip());
    let names = NameServer::start(NAME, addresses);
    let host = BareHost::new().with("resolv.conf", &format!("nameserver {}\n", names.address));
    let server = host.serving(&url);
    assert!(server.lets_in(&host.bootstrap_key()));
    assert!(names.asked_by_tcp() > 0);
}

#[test]
#[ignore = "needs root and the static program: scripts/test.sh --static"]
fn a_name_that_nobody_knows_is_said() {
    let database = Database::new();
    let (_, url) = named(&database);
    let names = NameServer::start("another.cloacina.test", Vec::new());
    let host = BareHost::new().with("resolv.conf", &format!("nameserver {}\n", names.address));
    let ended = host.run(&["serve", "--bind=127.0.0.1:0", "--database-wait=1s", "--database-url", &url]);
    let ended = ended.expect_code(1);
    assert!(ended.last_words().contains(NAME), "{ended:#?}");
    assert!(names.asked_by_udp() > 0);
}
