//! A home whose disk is full: what cannot start there waits, and fails for no such reason.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use super::{Lab, find, starting};
use crate::engine::task::is_root;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::wait_for;

/// A server whose home is a small disk that no other process sees, and where this one finds it.
fn on_a_small_disk() -> (Lab, std::path::PathBuf) {
    let (database, home) = (Database::new(), Directory::new());
    let path = home.path().display();
    let mounted = format!("mount -t tmpfs -o size=60M,mode=755 none {path} && exec \"$@\"");
    let prelude = format!(
        "set -- unshare --mount --propagation private sh -c '{mounted}' sh \"$@\"; PATH=$PATH:/usr/sbin:/sbin"
    );
    let server = starting(&database.url(), &home, 4).after(&prelude).serving();
    let disk = Path::new("/proc")
        .join(server.pid().to_string())
        .join("root")
        .join(home.path().strip_prefix("/").unwrap());
    fs::copy(disk.join("bootstrap-key"), home.join("bootstrap-key")).unwrap();
    (Lab::of(database, server, home), disk)
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[test]
fn what_cannot_start_on_a_full_disk_waits_until_there_is_room() {
    if !is_root() {
        println!("not tried: only root mounts a small disk");
        return;
    }
    let (lab, disk) = on_a_small_disk();
    for name in ["known", "fresh"] {
        lab.upload(name, "", &[("only", &format!("echo {name} >>$shared/ledger"), "")]);
    }
    // Its package is there from now on.
    assert_eq!(lab.run("known", "")["status"], "Completed");
    fill(&disk.join("filler"));
    let ids: Vec<_> = ["known", "fresh", "known", "fresh"].map(|name| lab.execute(name, "")).into();
    wait_for("the server to say so", || {
        let ready = lab.site.server.get("/ready", None).expect_status(200).json();
        ready["warnings"].as_array()?.contains(&"disk nearly full".into()).then_some(())
    });
    for id in &ids {
        let status = &lab.execution(id)["status"];
        assert!(status == "Pending" || status == "Running", "{status}: {}", lab.site.server.stderr());
    }
    fs::remove_file(disk.join("filler")).unwrap();
    for id in &ids {
        let ended = lab.ended(id);
        assert_eq!(ended["status"], "Completed", "{ended:#}");
        assert_eq!(find(&ended, "only")["attempts"], 1);
    }
    assert_eq!(lab.written("ledger").lines().count(), 5);
}
