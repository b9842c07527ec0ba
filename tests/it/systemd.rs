//! Under systemd: the server says when it answers and when it drains, and tells the watchdog so for as long as it answers;
//! and the unit files are ones that systemd takes, with the sandbox that they promise.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::program::{Process, binary, cloacinactl};
use crate::support::server::{Server, Start};
use crate::support::supervisor::Supervisor;
use crate::support::wait_for;

/// The watchdog's time, as text in microseconds and as itself.
const WATCHDOG_USEC: &str = "2000000";
const WATCHDOG: Duration = Duration::from_secs(2);
/// A silence that is none of a busy machine's.
const SILENCE: Duration = Duration::from_secs(6);

fn under(supervisor: &Supervisor, start: Start) -> Start {
    start.environment("NOTIFY_SOCKET", &supervisor.address)
}

fn watched(supervisor: &Supervisor, start: Start) -> Start {
    under(supervisor, start).environment("WATCHDOG_USEC", WATCHDOG_USEC)
}

#[test]
fn ready_once_it_answers_and_stopping_once_it_drains() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    cluster.stop_immediately();
    let supervisor = Supervisor::new();
    let starting = under(&supervisor, Start::on(&database)).starting();
    wait_for("the server to wait for its database", || starting.stderr().contains("waiting").then_some(()));
    assert_eq!(supervisor.messages(), [""; 0], "it does not serve yet");
    cluster.restart();
    supervisor.expect("READY=1");
    let server = starting.serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    assert_eq!(supervisor.message(WATCHDOG), None, "no watchdog was asked for");
    server.terminate().expect_code(0);
    assert_eq!(supervisor.messages(), ["STOPPING=1"]);
}

#[test]
fn stopping_is_said_before_the_last_answer() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let server = under(&supervisor, Start::on(&database)).serving();
    supervisor.expect("READY=1");
    let key = server.bootstrap_key();
    let lock = database.lock_keys();
    let mut asked = Connection::open(server.address);
    asked.send(&http::request("GET", "/auth/keys", Some(&key), None));
    wait_for("the request to be under way", || {
        (server.metric("cloacina_http_requests_in_flight", &[]) >= 1.0).then_some(())
    });
    server.signal("TERM");
    supervisor.expect("STOPPING=1");
    lock.release();
    asked.receive("GET").expect_status(200);
    server.ended().expect_code(0);
}

/// However it is bound, it finds itself.
#[test]
fn every_bind_is_reached() {
    let database = Database::new();
    for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"] {
        let supervisor = Supervisor::with_abstract_name();
        let server = watched(&supervisor, Start::on(&database).arguments(["--bind", bind])).serving();
        supervisor.expect("READY=1");
        supervisor.expect("WATCHDOG=1");
        server.terminate().expect_code(0);
        supervisor.wait_for("STOPPING=1");
    }
}

#[test]
fn every_passed_socket_is_reached() {
    let database = Database::new();
    let v6_alone = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    v6_alone.set_only_v6(true).unwrap();
    v6_alone.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    v6_alone.listen(16).unwrap();
    let bound = |ip: IpAddr| TcpListener::bind((ip, 0)).unwrap();
    let sockets = [v6_alone.into(), bound(Ipv4Addr::UNSPECIFIED.into()), bound(Ipv6Addr::UNSPECIFIED.into())];
    for listener in sockets {
        let supervisor = Supervisor::new();
        let server = watched(&supervisor, Start::on(&database).on_socket(&listener)).serving();
        supervisor.expect("READY=1");
        supervisor.expect("WATCHDOG=1");
        server.terminate().expect_code(0);
        supervisor.wait_for("STOPPING=1");
    }
}

#[test]
fn the_watchdog_is_fed_and_nothing_counts_it() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let server = watched(&supervisor, Start::on(&database).arguments(["--verbose"])).serving();
    supervisor.expect("READY=1");
    for _ in 0..4 {
        supervisor.expect("WATCHDOG=1");
    }
    let requests = server.metric("cloacina_http_requests_total", &[]);
    assert_eq!(requests, 0.0, "what the server asks itself is no request of a client");
    for name in ["cloacina_auth_failures_total", "cloacina_http_rejected_total"] {
        assert_eq!(server.metric(name, &[]), 0.0, "{name}");
    }
    let ended = server.terminate().expect_code(0);
    assert!(!ended.stderr.contains("refused since"), "{}", ended.stderr);
    // The path is in no log, for nobody to use it.
    assert!(!ended.stderr.contains("/watchdog-"), "{}", ended.stderr);
}

#[test]
fn without_a_supervisor_or_for_another_process() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let other = watched(&supervisor, Start::on(&database).after("export WATCHDOG_PID=1")).serving();
    supervisor.expect("READY=1");
    assert_eq!(supervisor.message(WATCHDOG), None, "the watchdog is another process's");
    other.terminate().expect_code(0);
    supervisor.expect("STOPPING=1");
    let own = watched(&supervisor, Start::on(&database).after("export WATCHDOG_PID=$$")).serving();
    supervisor.expect("READY=1");
    supervisor.expect("WATCHDOG=1");
    drop(own);
    // Somebody's leavings in the environment are no reason not to serve.
    let gone = Start::on(&database).environment("NOTIFY_SOCKET", "/nonexistent/notify").serving();
    wait_for("a line about it", || gone.stderr().contains("cannot tell systemd READY=1").then_some(()));
    gone.get("/ready", None).expect_status(200);
    let wrong = Start::on(&database).environment("NOTIFY_SOCKET", "notify").serving();
    wait_for("a line on stderr about it", || {
        wrong.stderr().contains("cannot use NOTIFY_SOCKET `notify`").then_some(())
    });
}

/// Every worker waits, for longer than the watchdog would, and a restart would help nobody.
#[test]
fn a_hung_database_is_no_reason_to_be_killed() {
    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let supervisor = Supervisor::new();
    let arguments = ["--workers", "2", "--pool-size", "4", "--queue", "4", "--database-timeout", "10m"];
    let mut server = watched(&supervisor, Start::on(&database).arguments(arguments)).serving();
    let key = server.bootstrap_key();
    wait_for("the pool to be full", || (server.metric("cloacina_db_pool_size", &[]) >= 4.0).then_some(()));
    let frozen = cluster.freeze();
    let list = http::request("GET", "/auth/keys", Some(&key), None);
    // The queue is full as well.
    let mut clients: Vec<Connection> = (0..6).map(|_| Connection::open(server.address)).collect();
    for client in &mut clients {
        client.send(&list);
    }
    wait_for("the server to see it", || (server.get("/ready", None).status == 503).then_some(()));
    supervisor.messages();
    let since = Instant::now();
    while since.elapsed() < WATCHDOG * 4 {
        supervisor.expect("WATCHDOG=1");
    }
    server.expect_well("a hung database");
    drop(frozen);
    wait_for("the database to be back", || (server.get("/ready", None).status == 200).then_some(()));
    for client in &mut clients {
        let status = client.receive("GET").status;
        // Those that waited behind others are turned away.
        assert!([200, 503].contains(&status), "{status}");
    }
    assert!(server.lets_in(&key));
}

/// What the gate listens on is taken away under it: the process lives, and nobody is answered.
#[test]
fn the_watchdog_hears_nothing_of_a_server_that_no_client_reaches() {
    let database = Database::new();
    let supervisor = Supervisor::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = watched(&supervisor, Start::on(&database).on_socket(&listener)).serving();
    supervisor.expect("READY=1");
    supervisor.expect("WATCHDOG=1");
    SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
    wait_for("a line about it", || server.stderr().contains("does not answer its own request").then_some(()));
    supervisor.messages();
    assert_eq!(supervisor.message(SILENCE), None, "there is nothing to feed it for");
    assert!(server.is_running());
}

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deploy");

/// The values of a setting in a unit file.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(UNITS).join(unit)).unwrap();
    text.lines().filter_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned())).collect()
}

fn setting(unit: &str, name: &str) -> String {
    let mut values = settings(unit, name);
    assert_eq!(values.len(), 1, "{name}= of {unit}: {values:?}");
    values.remove(0)
}

/// Both units in a directory of their own, with the program under test in place of the installed one, and this edited in.
fn units(edit: &str) -> Directory {
    let directory = Directory::new();
    for unit in ["cloacinactl.service", "cloacinactl.socket"] {
        let text = fs::read_to_string(Path::new(UNITS).join(unit)).unwrap();
        let program = fs::canonicalize(binary()).unwrap();
        let text = text.replace("/usr/local/bin/cloacinactl", program.to_str().unwrap());
        fs::write(directory.join(unit), text).unwrap();
    }
    let edits = directory.join("cloacinactl.service.d");
    fs::create_dir(&edits).unwrap();
    fs::write(edits.join("override.conf"), edit).unwrap();
    directory
}

fn systemd_analyze(arguments: &[&str], units: &[PathBuf]) -> Output {
    // It would hang, should it ever wait for a systemd that does not run.
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60", "systemd-analyze"]).args(arguments).args(units);
    let output = command.output().unwrap();
    let missing = "the tests need systemd-analyze: run scripts/install-tools.sh systemd-analyze";
    assert_ne!(output.status.code(), Some(127), "{missing}");
    output
}

/// What `systemd-analyze verify` has to say; it succeeds also when it ignores a line.
fn verified(directory: &Directory) -> String {
    let files = ["cloacinactl.service", "cloacinactl.socket"].map(|unit| directory.join(unit));
    let output = systemd_analyze(&["verify", "--man=no"], &files);
    let said = [output.stdout, output.stderr].concat();
    format!("{}{}", String::from_utf8_lossy(&said), if output.status.success() { "" } else { "it fails" })
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    assert_eq!(verified(&units("")), "");
    // The edit that the unit itself proposes.
    let text = fs::read_to_string(Path::new(UNITS).join("cloacinactl.service")).unwrap();
    let proposed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    assert!(proposed.concat().contains("CLOACINA_BOOTSTRAP_KEY_FILE=%d/bootstrap-key"), "{proposed:?}");
    assert_eq!(verified(&units(&proposed.join("\n"))), "");
    // And it would say something.
    assert!(verified(&units("[Service]\nWatchdogSec=soon\n")).contains("soon"));
}

#[test]
fn the_sandbox_holds() {
    let exposure = |edit: &str| {
        let directory = units(edit);
        let service = [directory.join("cloacinactl.service")];
        let output =
            systemd_analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"], &service);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (holds, said) = exposure("");
    assert!(holds && said.contains("Overall exposure level"), "more than 2.0:\n{said}");
    let (holds, said) = exposure("[Service]\nSystemCallFilter=\nCapabilityBoundingSet=~\n");
    assert!(!holds, "it should find this dangerous:\n{said}");
}

/// The lines of the unit, carried out as systemd does.
#[test]
fn the_unit_starts_the_server() {
    let database = Database::new();
    let state = Directory::new();
    let supervisor = Supervisor::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let unit = "cloacinactl.service";
    let home = state.join(&setting(unit, "StateDirectory"));
    fs::create_dir(&home).unwrap();
    let (name, source) =
        setting(unit, "LoadCredential").split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(source, "/etc/cloacina/database-url", "where install.sh keeps it");
    fs::write(state.join(&name), database.url() + "\n").unwrap();
    let filled = |text: &str| {
        let state = state.path().to_str().unwrap();
        text.replace("/usr/local/bin/cloacinactl", binary().to_str().unwrap())
            .replace("%S", state)
            .replace("%d", state)
    };
    let line = filled(&setting(unit, "ExecStart"));
    let pass = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 WATCHDOG_PID=$$; exec env --default-signal=HUP \"$@\"";
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", pass, "sh"]).args(line.split(' '));
    for variable in settings(unit, "Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, filled(value));
    }
    command.env("NOTIFY_SOCKET", &supervisor.address).env("WATCHDOG_USEC", WATCHDOG_USEC);
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    let server = Server::serving(Process::start_with_stdin(command), state.clone());
    assert_eq!(Some(server.address), listener.local_addr().ok());
    supervisor.expect("READY=1");
    supervisor.expect("WATCHDOG=1");
    let key = fs::read_to_string(home.join("bootstrap-key")).unwrap();
    assert!(server.lets_in(key.trim_end()));
    let reload = setting(unit, "ExecReload").replace("$MAINPID", &server.pid().to_string());
    assert!(Command::new("sh").args(["-c", &reload]).status().unwrap().success());
    server.stderr_with("SIGHUP");
    server.terminate().expect_code(0);
    assert_eq!(setting(unit, "Type"), "notify");
    assert_eq!(setting(unit, "User"), "cloacina", "whom cloacinactl.sysusers makes");
    assert_eq!(setting(unit, "Sockets"), "cloacinactl.socket");
}

#[test]
fn systemd_is_more_patient_than_the_server() {
    let help = Process::start(cloacinactl(["serve", "--help"])).ended().expect_code(0).stdout;
    let drain = help.split("--shutdown-timeout").nth(1).unwrap().split("default: ").nth(1).unwrap();
    let seconds = |text: &str| text.split('s').next().unwrap().parse::<u32>().unwrap();
    assert!(seconds(&setting("cloacinactl.service", "TimeoutStopSec")) > seconds(drain) + 1);
}
