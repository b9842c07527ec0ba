//! What archives cost: memory that does not grow with them, and no more of a bomb read than tells that it is one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::process::Command;

use super::super::pack::pack;
use super::super::walk::{Nowhere, Walked, walk};
use super::Scratch;
use super::made::{MANIFEST, Made, gzip};
use crate::workflows::manifest::tests::cost::{MOST_SECONDS, seconds_of_this_thread};
use crate::workflows::package::Package;

/// Of a process that packs and checks; 12 MiB of it are there before, in a test's process.
const MOST_MEMORY_KIB: u64 = 48 * 1024;

#[test]
fn memory_does_not_grow_with_a_package() {
    let test = "workflows::archive::tests::cost::of_a_gibibyte";
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--ignored", "--nocapture"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.split_once("VmHWM:")).unwrap().1;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    println!("packing and checking 1 GiB took {} MiB of memory at most", kib / 1024);
    assert!(kib < MOST_MEMORY_KIB, "{kib} KiB");
}

#[test]
#[ignore = "runs in a process of its own, for its memory to be seen"]
fn of_a_gibibyte() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("one");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("package.toml"), MANIFEST).unwrap();
    File::create(directory.join("zeros")).unwrap().set_len((1 << 30) - MANIFEST.len() as u64).unwrap();
    let archive = scratch.0.join("archive");
    pack(&directory, File::create(&archive).unwrap(), &[]).unwrap();
    Package::from_archive(File::open(&archive).unwrap()).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
}

/// Counts what is read.
struct Counted<R>(R, u64);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1 += count as u64;
        Ok(count)
    }
}

/// The problems of an archive, and how much of it was read.
fn read_of(archive: &[u8]) -> (Vec<String>, u64) {
    let mut counted = Counted(archive, 0);
    match walk(&mut counted, &mut Nowhere) {
        Ok(Walked { mut tree, .. }) => {
            (tree.problems.take().iter().map(ToString::to_string).collect(), counted.1)
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_bomb_is_stopped() {
    let mebibytes = gzip(&vec![0; 16 << 20]);
    let zeros = |gibibytes: usize| mebibytes.repeat(64 * gibibytes);
    let start = |size: u64| {
        let made = Made::new().raw(b'0', b"zeros", |header| header.set_size(size), b"");
        gzip(&made.tar)
    };
    // It says what it is.
    let (problems, read) = read_of(&[start(10 << 30), zeros(10)].concat());
    assert!(problems[0].starts_with("zeros: makes the package larger than 1024 MiB"), "{problems:?}");
    assert!(read < 64 << 10, "{read} bytes were read");
    // It says so later.
    let files = (0..11).fold(Vec::new(), |all, _| {
        [all, start(100 << 20), zeros(1)[..mebibytes.len() * 7].to_vec()].concat()
    });
    let (problems, _) = read_of(&files);
    assert!(!problems.is_empty());
    // It is in what is no file.
    for kind in [b'S', b'7', b'V', b'M', b'D'] {
        let of_kind = |name: &[u8], size: u64| {
            gzip(&Made::empty().raw(kind, name, |header| header.set_size(size), b"").tar)
        };
        let bomb = [of_kind(b"small", 16 << 20), mebibytes.clone(), of_kind(b"large", 1 << 30), zeros(1)];
        let (problems, read) = read_of(&bomb.concat());
        let is_told = problems.len() == 3
            && problems[1].starts_with("large: is ")
            && problems[2].starts_with("large: makes the package larger than 1024 MiB");
        assert!(is_told, "{problems:?}");
        assert!(read < 128 << 10, "{read} bytes were read");
    }
    let sparse = Made::new().pax(&[("GNU.sparse.major", b"1")]);
    let sparse = sparse.raw(b'0', b"zeros", |header| header.set_size(10 << 30), b"");
    let (problems, read) = read_of(&[gzip(&sparse.tar), zeros(10)].concat());
    assert!(problems[1].starts_with("zeros: makes the package larger"), "{problems:?}");
    assert!(read < 64 << 10, "{read} bytes were read");
    // It is behind the end.
    let (problems, read) = read_of(&[Made::new().archive(), zeros(10)].concat());
    assert_eq!(problems, ["archive: has more than 1 MiB of zeros behind the end of its tar data"]);
    assert!(read < 64 << 10, "{read} bytes were read");
}

#[test]
fn no_archive_takes_long() {
    let deep = "a/".repeat(63);
    let name = |number: usize| format!("{deep}{}{number:06}", "n".repeat(240));
    let long = |made: Made, number: usize| made.long(b'L', name(number).as_bytes()).file("", b"");
    let slashes = vec![b'/'; 500];
    let chained = |made: Made, number: usize| {
        let target = [format!("{}", number / 40 * 40 + (number + 1) % 40).as_bytes(), &slashes].concat();
        made.long(b'K', &target).symlink(&number.to_string(), "")
    };
    let parts = "x/../".repeat(200);
    let climbing =
        |made: Made, number: usize| made.long(b'K', parts.as_bytes()).symlink(&format!("{number}"), "");
    let extended = |made: Made, number: usize| {
        made.long(b'L', &[b"./".repeat(500_000), number.to_string().into_bytes()].concat()).file("", b"")
    };
    let records = |made: Made, number: usize| {
        made.raw(b'x', b"x", |_| {}, &b"6 a=b\n".repeat(170_000)).file(&number.to_string(), b"")
    };
    let mut took = Vec::new();
    for (what, archive) in [
        ("deep paths", (0..9_900).fold(Made::new(), long).archive()),
        ("links in circles", (0..9_990).fold(Made::new(), chained).archive()),
        ("links up and down", (0..9_990).fold(Made::new(), climbing).archive()),
        ("long names", (0..60).fold(Made::new(), extended).archive()),
        ("extended headers", (0..60).fold(Made::new(), records).archive()),
        ("members of gzip", [gzip(b"").repeat(990), Made::new().archive()].concat()),
    ] {
        let before = seconds_of_this_thread();
        let (problems, _) = read_of(&archive);
        let seconds = seconds_of_this_thread() - before;
        println!("{seconds:.3} s, {} problems: {what}", problems.len());
        took.push((seconds, what, problems.first().cloned()));
    }
    took.retain(|(seconds, ..)| *seconds > MOST_SECONDS);
    assert!(took.is_empty(), "{took:#?}");
}
