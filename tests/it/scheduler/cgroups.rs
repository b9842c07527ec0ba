//! Where a cgroup is delegated, each attempt has its own. What needs limits is tried in `scripts/vm`, under a real systemd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::XattrFlags;

use super::{Lab, find, runs, starting};
use crate::engine::task::is_root;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Process, binary, send_signal};
use crate::support::server::Server;
use crate::support::wait_for;

/// A cgroup that is marked as systemd does it.
struct Delegated(PathBuf);

impl Delegated {
    /// None on a machine that lets these tests make none, which it says.
    fn new() -> Option<Delegated> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find_map(|line| line.split_once(" - cgroup2 ")?.0.split(' ').nth(4));
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let name = format!("cloacina-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = mount.zip(own).map(|(mount, own)| PathBuf::from(mount).join(own).join(name));
        let made = path.ok_or("there is no cgroup2").and_then(|path| {
            if !is_root() || fs::create_dir(&path).is_err() {
                return Err("it lets no cgroup be made");
            }
            rustix::fs::setxattr(&path, "user.delegate", b"1", XattrFlags::empty()).unwrap();
            Ok(path)
        });
        match made {
            Ok(path) => Some(Delegated(path)),
            Err(why) => {
                eprintln!("skipped on this machine: {why}");
                None
            }
        }
    }

    fn start(&self, database: &Database, home: &Directory) -> Server {
        let enter = format!("echo $$ >{}/cgroup.procs", self.0.display());
        starting(&database.url(), home, 4).after(&enter).serving()
    }

    fn attempts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("attempt-")).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..1_000 {
            for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A process that nothing but its cgroup tells to be of this attempt: it has no environment, and a session of its own.
const STRANGER: &str =
    "(env -i setsid sh -c 'echo $$ >$0/stranger; exec sleep 86399' $shared </dev/null >/dev/null 2>&1 &)";

#[test]
fn an_attempt_is_ended_by_its_cgroup_whatever_was_killed() {
    let Some(delegated) = Delegated::new() else { return };
    let (database, home) = (Database::new(), Directory::new());
    let server = delegated.start(&database, &home);
    let mut lab = Lab::of(database, server, home);
    lab.upload("stays", "", &[("task", &format!("{STRANGER}; exec sleep 86399"), "")]);
    let id = lab.execute("stays", "");
    let stranger = lab.written("stranger").trim().to_owned();
    let cgroup = fs::read_to_string(format!("/proc/{stranger}/cgroup")).unwrap();
    let [attempt] = &delegated.attempts()[..] else { panic!("{:?}", delegated.attempts()) };
    assert!(cgroup.contains(attempt.file_name().unwrap().to_str().unwrap()), "{cgroup}");
    let all = fs::read_to_string(attempt.join("cgroup.procs")).unwrap();
    assert_eq!(all.lines().count(), 2, "the command and what it has started: {all}");
    // The server first: it would end what a supervisor leaves.
    let mut killed = vec![lab.site.server.pid().to_string()];
    killed.extend(super::restarts::supervisors(&lab));
    killed.iter().for_each(|process| send_signal("KILL", process));
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    assert!(runs(&stranger), "only a server that is back can end it");
    lab.site.server = delegated.start(&lab.site.database, &lab.home);
    let ended = lab.ended(&id);
    let error = find(&ended, "task")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("its supervisor was killed") && !runs(&stranger), "{error}");
    assert!(delegated.attempts().is_empty());
}

#[test]
fn an_attempt_that_ends_leaves_no_cgroup() {
    let Some(delegated) = Delegated::new() else { return };
    let (database, home) = (Database::new(), Directory::new());
    let server = delegated.start(&database, &home);
    let lab = Lab::of(database, server, home);
    lab.upload(
        "ends",
        "",
        &[("task", &format!("{STRANGER}; until [ -s $shared/stranger ]; do :; done"), "")],
    );
    let ended = lab.run("ends", "");
    assert_eq!(ended["status"], "Completed", "{ended:#}");
    assert!(!runs(lab.written("stranger").trim()));
    assert!(delegated.attempts().is_empty());
}

/// In the log where tasks run, and where a person asks before.
#[test]
fn what_is_not_held_is_said() {
    let lab = Lab::start(4);
    let line = "max_memory is not held, and tasks can take all memory and processes of this host: no cgroup is delegated";
    lab.site.server.stderr_with(line);
    let mut check = Command::new(binary());
    check.args(["serve", "--check", "--task-slots", "1", "--sandbox", "off", "--bind", "127.0.0.1:0"]);
    check.args(["--database-url", &lab.site.database.url()]);
    if is_root() {
        check.args(["--task-user", "nobody"]);
    }
    check.env_clear().env("HOME", lab.shared.path());
    let said = Process::start(check).ended().stdout;
    assert!(said.contains(&format!("ok: started like this, {line}")), "{said}");
}
