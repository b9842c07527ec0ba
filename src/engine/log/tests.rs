//! Logs against the obvious model: all that was printed, kept in memory.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::engine::held_directory::HeldDirectory;

/// A directory that is gone when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name =
            format!("cloacinactl-log-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A generator that gives the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.below(256) as u8).collect()
    }
}

/// Whether the piece is what a reader at `after` should get of this.
fn check(piece: &Piece, after: u64, most: usize, printed: &[u8]) {
    let start = usize::try_from(after + piece.missing).unwrap();
    assert!(piece.bytes.len() <= most);
    assert_eq!(piece.next, (start + piece.bytes.len()) as u64);
    assert!(
        piece.missing == 0 || !piece.bytes.is_empty(),
        "{} bytes are said to be missing at the end",
        piece.missing
    );
    assert!(printed[start..start + piece.bytes.len()] == piece.bytes[..], "wrong bytes at {start}");
}

#[test]
fn what_is_read_is_what_was_printed() {
    let mut random = Random(11);
    for limit in [0, 16 << 10, 20_001, 100_000] {
        let directory = Directory::new();
        let mut log = LogWriter::new(HeldDirectory::open(&directory.0).unwrap(), limit);
        let limit = limit.max(16 << 10);
        let mut printed = Vec::new();
        for _ in 0..200 {
            let bytes = random.bytes(3_000);
            log.write(&bytes);
            printed.extend_from_slice(&bytes);
            assert_eq!(log.printed(), printed.len() as u64);
            let on_disk =
                fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
            let on_disk: u64 = on_disk.sum();
            assert!(
                on_disk <= limit && log.kept() == on_disk,
                "{on_disk} bytes on the disk, {} kept",
                log.kept()
            );
            let (after, most) = (random.below(printed.len() + 1) as u64, random.below(5_000));
            let piece = read(&directory.0, after, most).unwrap();
            check(&piece, after, most, &printed);
        }
        // All of it, from the beginning on: what is not there is counted.
        let (mut after, mut missing, mut got) = (0, 0, 0);
        loop {
            let piece = read(&directory.0, after, 1 + random.below(9_000)).unwrap();
            check(&piece, after, 9_001, &printed);
            if piece.bytes.is_empty() {
                break;
            }
            (after, missing, got) = (piece.next, missing + piece.missing, got + piece.bytes.len() as u64);
        }
        assert_eq!((after, missing + got), (printed.len() as u64, printed.len() as u64));
        assert_eq!(got, log.kept());
        assert!(got >= (limit / 4 * 3).min(printed.len() as u64), "{got} of {}", printed.len());
        assert!(log.lost().is_none());
    }
}

#[test]
fn a_log_that_grows_is_read_as_it_was_printed() {
    let directory = Directory::new();
    let path = directory.0.clone();
    let printed = Mutex::new(Vec::new());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut random, mut log) =
                (Random(5), LogWriter::new(HeldDirectory::open(&path).unwrap(), 32 << 10));
            for _ in 0..3_000 {
                let bytes = random.bytes(2_000);
                // Before a reader can see any of it.
                printed.lock().unwrap().extend_from_slice(&bytes);
                log.write(&bytes);
            }
            is_over.store(true, Ordering::Release);
        });
        for seed in 0..2 {
            let (printed, is_over, path) = (&printed, &is_over, &path);
            scope.spawn(move || {
                let (mut random, mut after) = (Random(seed), 0);
                loop {
                    let was_over = is_over.load(Ordering::Acquire);
                    // One reader follows; the other looks here and there.
                    if seed == 1 {
                        after = random.below(printed.lock().unwrap().len() + 1) as u64;
                    }
                    let piece = read(path, after, 1 + random.below(4_000)).unwrap();
                    check(&piece, after, 4_000, &printed.lock().unwrap());
                    after = piece.next;
                    if was_over && (seed == 1 || piece.bytes.is_empty()) {
                        break;
                    }
                }
                assert!(seed == 1 || after == printed.lock().unwrap().len() as u64, "it ended at {after}");
            });
        }
    });
}

#[test]
fn what_cannot_be_written_is_lost_and_nothing_else() {
    let directory = Directory::new();
    let mut log = LogWriter::new(HeldDirectory::open(&directory.0).unwrap(), 16 << 10);
    log.write(b"first ");
    // A file of this name is in the way of the next piece: as after a full disk, which takes a whole write.
    log.write(&[b'x'; (8 << 10) - 6]);
    fs::write(directory.0.join("log.8192"), "").unwrap();
    log.write(b"lost");
    assert_eq!(log.lost().map(|(lost, _)| lost), Some(4));
    log.write(b"kept again");
    assert_eq!((log.printed(), log.kept()), (8_206, 8_202));
    let piece = read(&directory.0, 8_192, 100).unwrap();
    assert_eq!(piece, Piece { missing: 4, bytes: b"kept again".to_vec(), next: 8_206 });
}

#[test]
fn there_may_be_no_log_yet() {
    let directory = Directory::new();
    assert_eq!(read(&directory.0, 7, 100).unwrap(), Piece { next: 7, ..Piece::default() });
    assert!(read(&directory.0.join("none"), 0, 100).is_err());
}
