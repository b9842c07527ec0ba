//! The process that unpacks a package: all of it or nothing, within its limits, however it ends.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::directory::Directory;
use crate::support::program::{Process, binary};
use crate::support::{Seeded, wait_for};

const MANIFEST: &str =
    "[package]\nname = \"one\"\nversion = \"1.0.0\"\n[[tasks]]\nid = \"a\"\ncommand = [\"true\"]\n";
const IDS: &str = "11111111-2222-4333-8444-5555555555";

/// A package of 2 MiB that gzip cannot make smaller, as GNU tar writes it.
fn archive(directory: &Directory) -> Vec<u8> {
    let tree = directory.join("tree/top");
    fs::create_dir_all(tree.join("data")).unwrap();
    fs::write(tree.join("package.toml"), MANIFEST).unwrap();
    let mut seeded = Seeded::new(16);
    for name in 0..8 {
        fs::write(tree.join(format!("data/{name}")), seeded.bytes(256 * 1024)).unwrap();
    }
    // As deep as a package may be; what removes it keeps each of them open.
    fs::create_dir_all(tree.join("deep/".repeat(63))).unwrap();
    fs::write(tree.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("../run.sh", tree.join("data/link")).unwrap();
    fs::hard_link(tree.join("data/1"), tree.join("same")).unwrap();
    let packed =
        Command::new("tar").arg("-C").arg(directory.join("tree")).args(["-cz", "top"]).output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

/// The process, and the id that its partial directory has.
fn unpack(destination: &Path, id: u64) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(binary()).arg("unpack-package");
    command.arg(destination).arg(format!("{IDS}{id:02}")).stdin(Stdio::piped()).env_clear();
    Process::start_with_stdin(command)
}

fn feed(process: &mut Process, bytes: &[u8]) {
    // One that gives up early closes its end.
    let _ = process.child.stdin.as_mut().unwrap().write_all(bytes);
}

fn finish(mut process: Process) -> (Option<i32>, String) {
    drop(process.child.stdin.take());
    let ended = process.ended();
    assert_eq!(ended.stderr, "");
    (ended.status.code(), ended.stdout)
}

fn partial(destination: &Path, id: u64) -> PathBuf {
    PathBuf::from(format!("{}.partial-{IDS}{id:02}", destination.display()))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// That `destination` is the whole package.
fn assert_whole(directory: &Directory, destination: &Path) {
    let differences =
        Command::new("diff").arg("-r").arg(directory.join("tree/top")).arg(destination).output();
    let differences = differences.unwrap();
    assert!(differences.status.success(), "{}", String::from_utf8_lossy(&differences.stdout));
}

#[test]
fn a_package_is_unpacked_for_all_to_read() {
    let directory = Directory::new();
    let archive = archive(&directory);
    let packages = directory.join("packages");
    fs::create_dir(&packages).unwrap();
    let destination = packages.join("one");
    let mut process = unpack(&destination, 0);
    feed(&mut process, &archive);
    assert_eq!(finish(process), (Some(0), String::new()));
    assert_eq!(names(&packages), ["one"]);
    assert_whole(&directory, &destination);
    for (name, mode) in
        [("", 0o755), ("data", 0o755), ("run.sh", 0o755), ("package.toml", 0o644), ("data/0", 0o644)]
    {
        let metadata = fs::metadata(destination.join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(fs::read_link(destination.join("data/link")).unwrap(), Path::new("../run.sh"));
    // What is there stays as it is.
    let mut process = unpack(&destination, 1);
    feed(&mut process, &archive);
    let (code, report) = finish(process);
    assert_eq!((code, report.contains("exists")), (Some(1), true), "{report}");
    assert_eq!(names(&packages), ["one"]);
    assert_whole(&directory, &destination);
}

#[test]
fn what_is_no_package_leaves_nothing() {
    let directory = Directory::new();
    let archive = archive(&directory);
    fs::create_dir(directory.join("packages")).unwrap();
    std::os::unix::fs::symlink("/etc", directory.join("tree/top/outside")).unwrap();
    fs::write(directory.join("tree/beside"), "").unwrap();
    let command = ["-cz", "top", "beside"];
    let wrong =
        Command::new("tar").arg("-C").arg(directory.join("tree")).args(command).output().unwrap().stdout;
    for (bytes, expected) in [
        (
            &wrong[..],
            "{\"problem\":{\"file\":\"top/outside\",\"message\":\"is a link to `/etc`, which is outside",
        ),
        (&archive[..archive.len() / 2], "{\"problem\":{\"file\":\"archive\",\"message\":\"is cut off"),
        (b"", "{\"problem\":{\"file\":\"archive\",\"message\":\"is empty; a package is"),
    ] {
        let mut process = unpack(&directory.join("packages/one"), 0);
        feed(&mut process, bytes);
        let (code, report) = finish(process);
        assert_eq!((code, report.starts_with(expected)), (Some(1), true), "{report}");
        assert!(names(&directory.join("packages")).is_empty());
    }
    let mut process = unpack(&directory.join("missing/one"), 0);
    feed(&mut process, &archive);
    assert_eq!(
        finish(process),
        (Some(1), "{\"failed\":\"No such file or directory (os error 2)\"}\n".to_owned())
    );
}

#[test]
fn a_killed_process_leaves_no_package() {
    let directory = Directory::new();
    let archive = archive(&directory);
    let packages = directory.join("packages");
    fs::create_dir(&packages).unwrap();
    let destination = packages.join("one");
    let mut seeded = Seeded::new(9);
    let (mut before, mut after) = (0, 0);
    for round in 0..40 {
        let mut process = unpack(&destination, round);
        if round % 2 == 0 {
            let most = seeded.next() as usize % archive.len();
            feed(&mut process, &archive[..most]);
        } else {
            feed(&mut process, &archive);
            drop(process.child.stdin.take());
            std::thread::sleep(Duration::from_micros(seeded.next() % 20_000));
        }
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        if destination.exists() {
            assert_whole(&directory, &destination);
            fs::remove_dir_all(&destination).unwrap();
            after += 1;
        } else {
            before += 1;
        }
    }
    println!("killed {before} times before the package was there, {after} times after");
    assert!(before >= 20);
    // What they left goes with the next one; what only looks like it stays.
    fs::create_dir(packages.join("one.partial-other")).unwrap();
    let mut process = unpack(&destination, 50);
    feed(&mut process, &archive);
    assert_eq!(finish(process), (Some(0), String::new()));
    assert_eq!(names(&packages), ["one", "one.partial-other"]);
}

#[test]
fn processes_beside_each_other_leave_each_other_alone() {
    let directory = Directory::new();
    let archive = archive(&directory);
    let packages = directory.join("packages");
    fs::create_dir(&packages).unwrap();
    let (one, other) = (packages.join("one"), packages.join("other"));
    let mut first = unpack(&one, 1);
    feed(&mut first, &archive[..archive.len() / 2]);
    wait_for("the first one to begin", || partial(&one, 1).exists().then_some(()));
    let mut second = unpack(&other, 2);
    feed(&mut second, &archive);
    assert_eq!(finish(second), (Some(0), String::new()));
    assert!(partial(&one, 1).exists());
    feed(&mut first, &archive[archive.len() / 2..]);
    assert_eq!(finish(first), (Some(0), String::new()));
    assert_eq!(names(&packages), ["one", "other"]);
    // Two of one destination: one of them is first, and the package is whole.
    let (mut first, mut second) = (unpack(&packages.join("third"), 3), unpack(&packages.join("third"), 4));
    for bytes in archive.chunks(archive.len() / 3) {
        feed(&mut first, bytes);
        feed(&mut second, bytes);
    }
    let mut codes = [finish(first).0, finish(second).0];
    codes.sort();
    assert_eq!(codes, [Some(0), Some(1)]);
    assert_eq!(names(&packages), ["one", "other", "third"]);
    assert_whole(&directory, &packages.join("third"));
}

#[test]
fn the_process_is_bounded_by_the_kernel() {
    let directory = Directory::new();
    let archive = archive(&directory);
    let destination = directory.join("one");
    let mut process = unpack(&destination, 0);
    feed(&mut process, &archive[..1_000]);
    wait_for("it to begin", || partial(&destination, 0).exists().then_some(()));
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    for (name, most) in [
        ("Max cpu time", "300"),
        ("Max file size", "1073741824"),
        ("Max core file size", "0"),
        ("Max open files", "64"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let values: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(values, [most, most], "{name}");
    }
    // Beside what it has when it begins, which an allocator may have reserved a gigabyte of.
    let line = limits.lines().find_map(|line| line.strip_prefix("Max data size")).unwrap();
    let most: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!((256 << 20..2 << 30).contains(&most), "{line}");
    assert_eq!(fs::metadata(partial(&destination, 0)).unwrap().permissions().mode() & 0o777, 0o700);
}
