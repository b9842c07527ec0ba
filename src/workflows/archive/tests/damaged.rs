//! What is no archive, or only a part of one, or has something behind it.

use std::io::{self, Read};

use super::super::walk::{Nowhere, WalkError, walk};
use super::made::{Made, gzip};
use super::{assert_problems, problems};
use crate::workflows::package::{Package, PackageError};

#[test]
fn what_is_no_gzip_is_called_by_its_name() {
    let tar = Made::new().tar();
    for (bytes, expected) in [
        (&b""[..], "archive: is empty; a package is a tar archive that is compressed with gzip"),
        (b"PK\x03\x04....", "archive: is a zip file"),
        (b"\xfd7zXZ\0..", "archive: is compressed with xz"),
        (b"\x28\xb5\x2f\xfd..", "archive: is compressed with zstd"),
        (b"BZh91AY", "archive: is compressed with bzip2"),
        (&tar, "archive: is a tar archive without compression"),
        (b"[package]\nname", "archive: is a manifest alone"),
        (b"<html>\x1b", "archive: is not gzip data: it begins with `<html>\\x1b`"),
        (b"\x1f", "archive: is not gzip data: it begins with `\\x1f`"),
        (b"\x1f\x8b", "archive: is cut off: its gzip data end early"),
        (b"\x1f\x8b\x09\0\0\0\0\0\0\0\0", "archive: is damaged: its gzip data are wrong"),
    ] {
        assert_problems(bytes, &[expected]);
    }
    assert_problems(&gzip(b""), &["archive: is cut off: its tar data end before"]);
    assert_problems(&gzip(b"no tar"), &["archive: is cut off: its tar data end before"]);
    assert_problems(&gzip(&[b'x'; 1024]), &["has a header with a wrong checksum"]);
    assert_problems(&gzip(&Made::new().archive()), &["archive: is cut off: its tar data end before"]);
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let content: Vec<u8> =
        (0..3_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let archive = Made::new().file("a", &content).file("b", b"").archive();
    for length in (0..archive.len()).step_by(97).chain(archive.len() - 20..archive.len()) {
        let found = problems(&archive[..length]);
        assert_eq!(found.len(), 1, "{length}: {found:?}");
    }
    assert_problems(&archive, &[]);
    let tar = Made::new().file("a", &content).tar();
    for length in (0..tar.len()).step_by(256) {
        let found = problems(&gzip(&tar[..length]));
        assert!(found.len() == 1 && found[0].contains("is cut off"), "{length}: {found:?}");
    }
}

#[test]
fn every_changed_byte_of_the_checksums_is_found() {
    let archive = Made::new().file("a", b"content").archive();
    for at in archive.len() - 8..archive.len() {
        let mut wrong = archive.clone();
        wrong[at] ^= 1;
        assert_problems(&wrong, &["archive: is damaged: its gzip data are wrong"]);
    }
    let tar = Made::new().file("a", b"content").tar();
    let end_of_manifest = tar.len() - 1024 - 1024;
    for at in [end_of_manifest, end_of_manifest + 100, end_of_manifest + 150, end_of_manifest + 257] {
        let mut wrong = tar.clone();
        wrong[at] ^= 1;
        assert_problems(&gzip(&wrong), &["has a header with a wrong checksum"]);
    }
}

#[test]
fn members_behind_each_other_are_one() {
    let tar = Made::new().file("a", &[b'x'; 2_000]).tar();
    let members: Vec<u8> = tar.chunks(700).flat_map(gzip).collect();
    assert_problems(&members, &[]);
    // As gzip reads it: an archive behind an archive is behind its end.
    let two = [Made::new().archive(), Made::new().file("b", b"").archive()].concat();
    assert_problems(&two, &["archive: has something behind the end of its tar data"]);
    let many = gzip(b"").repeat(1_000);
    assert_problems(&[many, Made::new().archive()].concat(), &["archive: has more than 1000 gzip members"]);
}

#[test]
fn nothing_is_behind_the_end() {
    let archive = Made::new().archive();
    for garbage in [&b"x"[..], b"\0", b"\x1f", b"\x1f\x8b"] {
        let found = problems(&[&archive, garbage].concat());
        assert_eq!(found.len(), 1, "{found:?}");
    }
    let tar = Made::new().tar();
    assert_problems(&gzip(&[&tar[..], &[0; 1 << 20]].concat()), &[]);
    let expected = "archive: has more than 1 MiB of zeros behind the end of its tar data";
    assert_problems(&gzip(&[&tar[..], &vec![0; 2 << 20]].concat()), &[expected]);
    let expected = "archive: has something behind the end of its tar data";
    assert_problems(&gzip(&[&tar[..], b"x"].concat()), &[expected]);
    assert_problems(&gzip(&[&tar[..tar.len() - 512], &Made::new().tar()].concat()), &[expected]);
    // One block of zeros is not the end.
    let expected = "archive: is cut off: its tar data end before the two blocks of zeros";
    assert_problems(&gzip(&tar[..tar.len() - 512]), &[expected]);
}

#[test]
fn an_archive_that_cannot_be_read_is_not_a_wrong_one() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        }
    }
    for bytes in 0..4 {
        let archive = Made::new().archive();
        let reader = archive[..bytes * 30].chain(Failing);
        match walk(reader, &mut Nowhere) {
            Err(WalkError::Read(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it was read"),
        }
    }
}

/// What its files could tell is not told: those behind may be in the part that was not read.
#[test]
fn a_manifest_before_the_damage_is_read() {
    let manifest =
        "[package]\nname = \"one\"\nversion = \"1\"\n\n[[tasks]]\nid = \"a\"\ncommand = [\"./later\"]\n";
    let large = |made: Made| made.raw(b'0', b"large", |header| header.set_size(2 << 30), b"");
    let first = Made::empty().file("top/package.toml", manifest.as_bytes());
    let later = Made::empty().file("a", b"").file("package.toml", manifest.as_bytes());
    for (tar, expected) in [
        (first.tar.clone(), Some("is cut off")),
        (later.tar, Some("is cut off")),
        (large(first).tar, Some("makes the package larger")),
        (Made::empty().file("package.toml", manifest.as_bytes()).tar[..550].to_vec(), None),
        (large(Made::empty()).file("package.toml", manifest.as_bytes()).tar, None),
    ] {
        let Err(PackageError::Problems(problems)) = Package::from_archive(&gzip(&tar)[..]) else {
            panic!("it was read");
        };
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        match expected {
            Some(damage) => {
                assert!(lines.len() == 2 && lines[0].contains(damage), "{lines:#?}");
                assert!(
                    lines[1].starts_with("package.toml:3:11: `version`: `1` is no version"),
                    "{lines:#?}"
                );
            }
            None => assert_eq!(lines.len(), 1, "{lines:#?}"),
        }
    }
}
