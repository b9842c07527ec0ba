//! Directories: what packing takes, that it takes it alike each time, and that unpacking gives it back.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::super::pack::pack;
use super::super::unpack::unpack;
use super::made::MANIFEST;
use super::{Scratch, listing};
use crate::workflows::package::{Package, PackageError};

fn write(directory: &Path, name: &str, content: &[u8], mode: u32) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

/// A package with all that one may hold.
fn make_package(directory: &Path) {
    write(directory, "package.toml", MANIFEST.as_bytes(), 0o644);
    write(directory, "run.sh", b"#!/bin/sh\n", 0o755);
    write(directory, "data/a b/ü", &[b'7'; 1_000], 0o600);
    write(directory, "data-1", b"", 0o640);
    write(directory, ".hidden/.env", b"A=1", 0o444);
    let long = "long-name/".repeat(20);
    write(directory, &format!("{long}{}", "n".repeat(200)), b"deep", 0o711);
    fs::create_dir(directory.join("empty")).unwrap();
    symlink("../run.sh", directory.join("data/link")).unwrap();
    symlink("./data/..//run.sh", directory.join("other-link")).unwrap();
    symlink(format!("{long}{}", "n".repeat(200)), directory.join("long-link")).unwrap();
    symlink("missing", directory.join("nowhere")).unwrap();
    fs::hard_link(directory.join("run.sh"), directory.join("same.sh")).unwrap();
}

fn packed(directory: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(directory, &mut archive, &[]).unwrap();
    archive
}

fn lines(directory: &Path) -> Vec<String> {
    let prefix = format!("{}/", directory.display());
    listing(directory).into_iter().map(|line| line.replacen(&prefix, "", 1)).collect()
}

#[test]
fn what_is_packed_is_what_is_unpacked() {
    let scratch = Scratch::new();
    let from = scratch.0.join("from");
    make_package(&from);
    let archive = packed(&from);
    assert_eq!(Package::from_archive(&archive[..]).unwrap().manifest_text, MANIFEST);
    assert_eq!(Package::from_directory(&from).unwrap().manifest_text, MANIFEST);
    let to = scratch.0.join("to");
    unpack(&archive[..], &to, Uuid::new_v4()).unwrap();
    assert_eq!(lines(&to), lines(&from));
    for (name, mode) in
        [("run.sh", 0o755), ("data/a b/ü", 0o644), (".hidden/.env", 0o644), ("same.sh", 0o755)]
    {
        let metadata = fs::metadata(to.join(name)).unwrap();
        // The mask of a test's process is not the one of an unpacking process.
        assert_eq!(metadata.permissions().mode() & 0o700, mode & 0o700, "{name}");
    }
    assert_eq!(packed(&to), archive);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let scratch = Scratch::new();
    let (one, other) = (scratch.0.join("one"), scratch.0.join("other"));
    make_package(&one);
    let archive = packed(&one);
    assert_eq!(packed(&one), archive);
    // Written in another order, with other times and with modes as another umask leaves them.
    fs::create_dir(&other).unwrap();
    let (left, right): (Vec<_>, Vec<_>) = fs::read_dir(&one)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .partition(|path| path.file_name().unwrap().len() % 2 == 0);
    for path in left.iter().chain(&right).rev() {
        assert!(Command::new("cp").arg("-a").arg(path).arg(&other).status().unwrap().success());
    }
    for name in ["package.toml", "run.sh", "data/a b/ü"] {
        let file = File::open(other.join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        fs::set_permissions(other.join(name), Permissions::from_mode(mode | 0o066)).unwrap();
    }
    fs::set_permissions(other.join("data"), Permissions::from_mode(0o2775)).unwrap();
    assert_eq!(packed(&other), archive);
    // And it is the one that was ever made of this tree.
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(archive[..10], header);
    write(&other, "run.sh", b"#!/bin/sh\n", 0o644);
    assert_ne!(packed(&other), archive);
}

#[test]
fn what_is_no_part_of_a_package_is_left_out() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("one");
    make_package(&directory);
    let archive = packed(&directory);
    write(&directory, ".git/config", b"", 0o644);
    write(&directory, "data/.git", b"gitdir: elsewhere", 0o644);
    for earlier in ["one-1.0.0.tar.gz", "one-0.9.0-rc.1.tar.gz"] {
        write(&directory, earlier, b"earlier", 0o644);
    }
    assert_eq!(packed(&directory), archive);
    // Whatever is written, under another name too, and what it will replace.
    let output = directory.join("data/output");
    write(&directory, "replaced.tgz", b"earlier", 0o644);
    let left_out = [output.as_path(), &directory.join("replaced.tgz"), &directory.join("missing")];
    pack(&directory, File::create(&output).unwrap(), &left_out).unwrap();
    assert_eq!(fs::read(&output).unwrap(), archive);
    for other in [".gitignore", "one-x.tar.gz", "one-1.0.0.tar", "data/one-1.0.0.tar.gz", "two-1.0.0.tar.gz"]
    {
        let path = directory.join(other);
        fs::write(&path, "").unwrap();
        let mut archive_with_it = Vec::new();
        pack(&directory, &mut archive_with_it, &left_out).unwrap();
        assert_ne!(archive_with_it, archive, "{other}");
        fs::remove_file(path).unwrap();
    }
}

fn wrong(result: Result<Package, PackageError>) -> Vec<String> {
    match result {
        Err(PackageError::Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_is_refused_for_what_its_archive_would_be() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("one");
    make_package(&directory);
    let name = std::ffi::OsString::from_vec(b"no-\xff-text".to_vec());
    fs::write(directory.join(name), "").unwrap();
    write(&directory, "line\nbreak", b"", 0o644);
    write(&directory, "setuid", b"", 0o4755);
    symlink("/etc/passwd", directory.join("absolute")).unwrap();
    symlink("../..", directory.join("data/up")).unwrap();
    symlink("data/up", directory.join("chain")).unwrap();
    symlink("loop", directory.join("loop")).unwrap();
    nix::unistd::mkfifo(&directory.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(directory.join("socket")).unwrap();
    let expected = [
        "line\\nbreak: has the control character '\\n' in it",
        "no-\\xff-text: is not UTF-8",
        "pipe: is a named pipe; a package holds",
        "setuid: is setuid, setgid or sticky (mode 4755)",
        "socket: is a socket; a package holds",
        "absolute: is a link to `/etc/passwd`, which is outside of the package",
        "chain: is a link to `data/up`, which is outside of the package",
        "data/up: is a link to `../..`, which is outside of the package",
        "loop: is a link to `loop`, which leads through too many links",
    ];
    let mut found = wrong(Package::from_directory(&directory));
    found.sort();
    let mut expected = expected.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (line, part) in found.iter().zip(&expected) {
        assert!(line.starts_with(part.as_str()), "{line} is not {part}");
    }
    let mut archive = Vec::new();
    let mut told = wrong(pack(&directory, &mut archive, &[]));
    told.sort();
    assert_eq!(told, found);
    assert_eq!(archive, b"");
    assert!(matches!(Package::from_directory(&directory.join("missing")), Err(PackageError::Read(_))));
    assert!(matches!(Package::from_directory(&directory.join("run.sh")), Err(PackageError::Read(_))));
}

#[test]
fn a_directory_and_its_archive_say_the_same_of_a_manifest() {
    let text = MANIFEST.replace("\"true\"", "\"./run.sh\"") + "nothing = 1\n";
    let commands =
        [("missing", false), ("data", false), ("data-1", false), ("data/link", true), ("same.sh", true)];
    for (command, is_right) in commands {
        let scratch = Scratch::new();
        let directory = scratch.0.join("one");
        make_package(&directory);
        write(
            &directory,
            "package.toml",
            MANIFEST.replace("true", &format!("./{command}")).as_bytes(),
            0o644,
        );
        assert_eq!(Package::from_directory(&directory).is_ok(), is_right, "{command}");
        let tar = Command::new("tar").arg("-C").arg(&directory).args(["-cz", "."]).output().unwrap().stdout;
        assert_eq!(Package::from_archive(&tar[..]).is_ok(), is_right, "{command}");
        if !is_right {
            assert_eq!(wrong(Package::from_archive(&tar[..])), wrong(Package::from_directory(&directory)));
        }
        write(&directory, "package.toml", text.as_bytes(), 0o644);
        let found = wrong(Package::from_directory(&directory));
        assert!(found.iter().any(|line| line.starts_with("package.toml:8:1: ")), "{found:?}");
        write(&directory, "package.toml", b"[package]\nname = \"\xff\"\n", 0o644);
        assert_eq!(
            wrong(Package::from_directory(&directory)),
            ["package.toml:2: is not UTF-8 from here on; save it as UTF-8"]
        );
    }
}

#[test]
fn archives_of_other_programs_are_read() {
    let scratch = Scratch::new();
    let (rich, plain) = (scratch.0.join("rich"), scratch.0.join("plain"));
    make_package(&rich);
    // What the oldest formats can hold.
    make_package(&plain);
    fs::remove_dir_all(plain.join("long-name")).unwrap();
    fs::remove_file(plain.join("long-link")).unwrap();
    for (format, name) in
        [("gnu", "rich"), ("oldgnu", "rich"), ("posix", "rich"), ("ustar", "plain"), ("v7", "plain")]
    {
        for (at, what) in [(name, "."), (".", name)] {
            let mut command = Command::new("tar");
            command.arg(format!("--format={format}")).arg("-C").arg(scratch.0.join(at)).args(["-cz", what]);
            let archive = command.output().unwrap().stdout;
            let to = scratch.0.join(format!("to-{}", Uuid::new_v4()));
            unpack(&archive[..], &to, Uuid::new_v4()).unwrap_or_else(|error| panic!("{format}: {error:?}"));
            assert_eq!(lines(&to), lines(&scratch.0.join(name)), "{format}");
        }
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_not_packed_wrongly() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("one");
    make_package(&directory);
    // What is written grows, and is in the directory.
    let output = directory.join("output");
    write(&directory, "aaa", &(0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(), 0o644);
    let found = wrong(pack(&directory, File::create(&output).unwrap(), &[]));
    assert_eq!(found, ["output: cannot be read: it was changed meanwhile"]);
}
