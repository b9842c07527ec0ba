//! What archives cost: memory that does not grow with them, and no more of a bomb read than tells that it is one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::process::Command;

use super::super::pack::pack;
use super::super::walk::{Nowhere, WalkError, walk};
use super::Scratch;
use super::made::{MANIFEST, Made, gzip};
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
        Err(WalkError::Problems(problems)) => (problems.iter().map(ToString::to_string).collect(), counted.1),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was accepted"),
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
    assert!(problems[0].starts_with("zeros: makes the files larger than 1024 MiB"), "{problems:?}");
    assert!(read < 64 << 10, "{read} bytes were read");
    // It says so later.
    let files = (0..11).fold(Vec::new(), |all, _| {
        [all, start(100 << 20), zeros(1)[..mebibytes.len() * 7].to_vec()].concat()
    });
    let (problems, _) = read_of(&files);
    assert!(!problems.is_empty());
    // It is behind the end.
    let (problems, read) = read_of(&[Made::new().archive(), zeros(10)].concat());
    assert_eq!(problems, ["archive: has more than 1 MiB of zeros behind the end of its tar data"]);
    assert!(read < 64 << 10, "{read} bytes were read");
}
