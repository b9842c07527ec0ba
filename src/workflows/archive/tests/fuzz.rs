//! Archives with changes at random, in the places that mean something: nothing panics, nothing is written outside, and
//! what is accepted is what GNU tar unpacks too. `scripts/fuzz.sh` runs it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::made::{MANIFEST, Made, gzip};
use super::{Scratch, checked, listing};
use crate::workflows::archive::unpack::unpack;
use crate::workflows::archive::walk::WalkError;
use crate::workflows::package::Package;

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % most.max(1)
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const NAMES: &[&str] = &[
    "a",
    "a/",
    "./a",
    "a/b",
    "a/b/c",
    "d",
    "d/e",
    "..",
    "../canary",
    "a/../b",
    "/tmp/canary",
    "package.toml",
    "p/package.toml",
    "",
    ".",
    "./",
    "//",
    "l",
    "l/x",
    "a\nb",
    "\u{202e}",
    "a\\b",
    " ",
    "-rf",
    "h",
];
const KINDS: &[u8] = b"\x00011223455555567DKLMNSVXgx";
const SIZES: &[&[u8; 12]] = &[
    b"00000000000\0",
    b"00000000001\0",
    b"00000001000\0",
    b"77777777777\0",
    b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"-1\0\0\0\0\0\0\0\0\0\0",
    b"  1 \0\0\0\0\0\0\0\0",
    b"1\x001\0\0\0\0\0\0\0\0\0",
];
const RECORDS: &[&[u8]] = &[
    b"10 path=l\n",
    b"9 path=b\n",
    b"18 path=../canary\n",
    b"14 path=l/x/y\n",
    b"15 linkpath=..\n",
    b"14 linkpath=a\n",
    b"9 size=1\n",
    b"12 size=512\n",
    b"22 GNU.sparse.major=1\n",
    b"13 mtime=1.5\n",
    b"99 path=b\n",
    b"5 x=\n",
];

fn seed_archive(random: &mut Random) -> Vec<u8> {
    let made = match random.below(4) {
        0 => Made::new().directory("a/").file("a/b", b"content").symlink("l", "a").hard_link("h", "a/b"),
        1 => {
            Made::empty().directory("p/").file("p/package.toml", MANIFEST.as_bytes()).symlink("p/d/l", "../x")
        }
        2 => Made::new()
            .long(b'L', "n/".repeat(60).as_bytes())
            .directory("x")
            .pax(&[("path", b"d/e")])
            .file("y", b"1"),
        _ => Made::new()
            .file("a", &[b'x'; 600])
            .long(b'K', "./".repeat(70).as_bytes())
            .symlink("l", "x")
            .file("d/e", b""),
    };
    made.tar()
}

fn change(tar: &mut Vec<u8>, random: &mut Random) {
    if tar.len() < 1024 {
        return;
    }
    let at = random.below(tar.len() / 512) * 512;
    let is_header = tar.get(at + 257..at + 262) == Some(b"ustar");
    match random.below(14) {
        0..=2 if is_header => put(&mut tar[at..at + 100], random.of(NAMES).as_bytes()),
        3..=4 if is_header => put(&mut tar[at + 157..at + 257], random.of(NAMES).as_bytes()),
        5..=6 if is_header => tar[at + 156] = random.of(KINDS),
        7 if is_header => tar[at + 124..at + 136].copy_from_slice(random.of::<&[u8; 12]>(SIZES)),
        8 if is_header => tar[at + random.below(512)] = u8::try_from(random.below(256)).unwrap(),
        9 => {
            // An extended header, or several blocks once more, elsewhere.
            let end = (at + 512 * (1 + random.below(3))).min(tar.len());
            let piece = match random.below(2) {
                0 => tar[at..end].to_vec(),
                _ => {
                    Made::empty()
                        .raw(b'x', b"x", |_| {}, &[random.of(RECORDS), random.of(RECORDS)].concat())
                        .tar
                }
            };
            let to = random.below(tar.len() / 512) * 512;
            tar.splice(to..to, piece);
        }
        10 => {
            let made = Made::empty().raw(random.of(KINDS), random.of(NAMES).as_bytes(), |_| {}, b"");
            tar.splice(at..at, made.symlink(random.of(&NAMES[..7]), random.of(NAMES)).tar);
        }
        11 => {
            tar.drain(at..at + 512);
        }
        12 => {
            let at = random.below(tar.len());
            tar[at] ^= 1 << random.below(8);
        }
        13 if random.below(4) == 0 => tar.truncate(random.below(tar.len())),
        _ => {}
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    field.fill(0);
    let count = bytes.len().min(field.len());
    field[..count].copy_from_slice(&bytes[..count]);
}

/// Of all headers, most of the time: what is only damaged is refused at once.
fn mend_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn made(random: &mut Random) -> Vec<u8> {
    let mut tar = seed_archive(random);
    for _ in 0..random.below(5) {
        change(&mut tar, random);
    }
    if random.below(20) > 0 {
        mend_checksums(&mut tar);
    }
    let mut archive = match random.below(10) {
        0 => tar.chunks(1 + random.below(2_000)).flat_map(gzip).collect(),
        _ => gzip(&tar),
    };
    match random.below(20) {
        0 => {
            let at = random.below(archive.len());
            archive[at] ^= 1 << random.below(8);
        }
        1 => archive.truncate(random.below(archive.len())),
        2 => archive.push(b'x'),
        _ => {}
    }
    archive
}

/// What a link leads to is inside or not there, and no file has a mode of its own choice.
fn assert_inside(directory: &Path) {
    for line in listing(directory) {
        let path = line.split_once(" -> ").map_or(line.trim_end_matches('/'), |(path, _)| path);
        if line.contains(" -> ") {
            let end = fs::canonicalize(path);
            assert!(end.is_err() || end.is_ok_and(|end| end.starts_with(directory)), "{line}");
        } else if let Ok(metadata) = fs::symlink_metadata(path) {
            assert_eq!(metadata.permissions().mode() & 0o7000, 0, "{line}");
        }
    }
}

/// What GNU tar makes of it, relative to where the package begins. It may complain of numbers that mean nothing here, such
/// as an owner's.
fn assert_same_as_tar(archive: &Path, destination: &Path, scratch: &Path) {
    let other = scratch.join("other");
    fs::create_dir(&other).unwrap();
    let mut tar = Command::new("tar");
    let tar = tar.args(["-xz", "--no-same-owner", "-f"]).arg(archive).arg("-C").arg(&other).output().unwrap();
    let root = if other.join("package.toml").exists() { other.clone() } else { other.join("p") };
    assert!(root.is_dir(), "tar refuses what is accepted: {tar:?}");
    let lines = |directory: &Path| -> Vec<String> {
        let prefix = format!("{}/", directory.display());
        listing(directory).iter().map(|line| line.replacen(&prefix, "", 1)).collect()
    };
    assert_eq!(lines(destination), lines(&root), "{tar:?}");
    fs::remove_dir_all(other).unwrap();
}

#[test]
#[ignore = "for as long as CLOACINA_FUZZ_SECONDS says"]
fn archives_at_random() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let until = Instant::now() + Duration::from_secs(number("CLOACINA_FUZZ_SECONDS").unwrap_or(60));
    let seed = number("CLOACINA_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let mut random = Random(seed | 1);
    let scratch = Scratch::new();
    let (packages, file) = (scratch.0.join("packages"), scratch.0.join("archive"));
    fs::write(scratch.0.join("canary"), "sings").unwrap();
    fs::create_dir(&packages).unwrap();
    fs::write(&file, "").unwrap();
    let outside = listing(&scratch.0);
    let (mut all, mut accepted, mut messages) = (0_u64, 0_u64, BTreeMap::<String, u64>::new());
    while Instant::now() < until {
        let archive = made(&mut random);
        all += 1;
        // Left there when something is wrong with it.
        fs::write(&file, &archive).unwrap();
        let problems = checked(&archive);
        let _ = Package::from_archive(&archive[..]);
        let destination = packages.join("one");
        match unpack(&archive[..], &destination, Uuid::new_v4()) {
            Ok(()) => {
                accepted += 1;
                assert!(problems.is_empty());
                assert_inside(&destination);
                if accepted % 8 == 0 {
                    assert_same_as_tar(&file, &destination, &scratch.0);
                }
                fs::remove_dir_all(&destination).unwrap();
            }
            Err(WalkError::Problems(unpacked)) => assert_eq!(unpacked, problems),
            Err(other) => panic!("{other:?}"),
        }
        for problem in problems {
            let kind: String = problem
                .message
                .split(|c: char| c == '`' || c.is_ascii_digit())
                .next()
                .unwrap()
                .chars()
                .take(60)
                .collect();
            *messages.entry(kind).or_default() += 1;
        }
        fs::write(&file, "").unwrap();
        assert_eq!(listing(&scratch.0), outside);
    }
    println!("{all} archives, {accepted} accepted, {} kinds of problems: {messages:#?}", messages.len());
    assert!(accepted * 100 > all, "too few are accepted to tell anything");
}
