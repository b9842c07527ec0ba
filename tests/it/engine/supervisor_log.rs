//! What a task prints: all of it within the limit, beginning and end beyond, and no secret.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::attempt::{As, Attempt, Outcome, both, log_of};
use super::task::is_root;
use crate::support::footprint::Footprint;
use crate::support::{Seeded, wait_for};

const LIMIT: u64 = 1 << 20;

/// What a log of this limit holds of what was printed, in pieces that begin where their names say.
#[track_caller]
fn expect_beginning_and_end(outcome: &Outcome, printed: u64, expected: impl Fn(u64, &[u8])) {
    let log = outcome.log();
    assert_eq!(outcome.outcome["log_bytes"], printed);
    let kept: u64 = log.values().map(|piece| piece.len() as u64).sum();
    assert_eq!(outcome.outcome["log_kept_bytes"], kept);
    assert!(kept <= LIMIT && kept >= printed.min(LIMIT / 4 * 3), "{kept} of {printed} bytes");
    assert_eq!(log[&0].len() as u64, printed.min(LIMIT / 2));
    for (start, piece) in &log {
        expected(*start, piece);
    }
    let (start, last) = log.last_key_value().unwrap();
    assert_eq!(start + last.len() as u64, printed, "the end is there");
}

#[test]
fn a_task_that_prints_gigabytes_is_never_stopped_by_it() {
    let attempt = Attempt::script(As::Plain, "echo begins; head -c 2G /dev/zero; echo ends; sleep 0.5");
    let running = attempt.start();
    let path = running.attempt.path();
    // While it prints, no more is on the disk than may be.
    let mut peak = 0;
    wait_for("the end", || {
        let kept: u64 = log_of(&path).values().map(|piece| piece.len() as u64).sum();
        assert!(kept <= LIMIT, "{kept} bytes are kept");
        if fs::exists(format!("/proc/{}/status", running.process.pid())).unwrap_or(false)
            && !path.join("outcome.json").exists()
        {
            peak = peak.max(Footprint::of(running.process.pid()).peak);
        }
        path.join("outcome.json").exists().then_some(())
    });
    let outcome = running.ended();
    assert_eq!(*outcome.end(), json!({"exited": 0}));
    expect_beginning_and_end(&outcome, (2 << 30) + 12, |start, piece| {
        let text = if start == 0 { piece.strip_prefix(b"begins\n").unwrap() } else { piece };
        let text = text.strip_suffix(b"ends\n").unwrap_or(text);
        assert!(text.iter().all(|byte| *byte == 0));
    });
    println!("a supervisor of 2 GiB of output: {peak} KiB at most");
    assert!(peak > 0 && peak < 32 << 10, "{peak} KiB");
}

#[test]
fn bytes_that_are_no_text_are_kept_as_they_are() {
    let mut random = Seeded::new(7);
    for size in [0, 1, 524_288, 524_289, 1_000_000, 1_048_576, 1_048_577, 5_000_000] {
        let bytes = random.bytes(size);
        let attempt = Attempt::script(As::Plain, "cat $HERE/shared/bytes");
        fs::write(attempt.shared().join("bytes"), &bytes).unwrap();
        let outcome = attempt.run();
        assert_eq!(*outcome.end(), json!({"exited": 0}));
        if size > 0 {
            expect_beginning_and_end(&outcome, size as u64, |start, piece| {
                let start = start as usize;
                assert!(bytes[start..start + piece.len()] == *piece, "{size} bytes, from {start} on");
            });
        }
    }
}

#[test]
fn a_log_can_be_read_while_a_task_prints() {
    let running =
        Attempt::script(As::Plain, "printf 'no line yet'; read -r x <$HERE/shared/go").with("grace_ms", 0);
    let made = Command::new("mkfifo").arg(running.shared().join("go")).status().unwrap();
    assert!(made.success());
    let running = running.start();
    let path = running.attempt.path();
    wait_for("what was printed", || (log_of(&path).get(&0)? == b"no line yet").then_some(()));
    running.process.signal("TERM");
    running.ended().expect_end("cancelled");
}

#[test]
fn secrets_are_masked_also_across_two_reads() {
    for supervisor in both() {
        let mut attempt = Attempt::script(
            supervisor,
            "echo $LONG; printf \"${LONG%-*}\"; sleep 0.1; printf -- \"-${LONG##*-}\\n\"; echo $SHORT $LINES_ $INNER;
             printf \"${LONG%-*}\"",
        );
        attempt.secrets = json!({
            "LONG": "correct-horse-battery", "SHORT": "7bytes!", "INNER": "horse-battery\n", "LINES_": "one two\nthree four",
        });
        let outcome = attempt.run().expect_end(json!({"exited": 0}));
        let expected = "***\n***\n7bytes! one two three four ***\ncorrect-horse";
        assert_eq!(outcome.log_text(), expected);
        assert_eq!(outcome.outcome["log_bytes"], expected.len(), "offsets are those of the masked text");
    }
    // Of every size, printed in pieces of any size.
    let script = "
import os, random, sys
random.seed(3)
text = b''.join(b'<' + os.environb[b'S%d' % (n % 4)] + b'>' for n in range(400))
while text:
    size = random.randrange(1, 3000); os.write(1, text[:size]); text = text[size:]";
    let mut attempt = Attempt::python(As::Plain, script);
    let lengths = [8, 100, 4_000, 60_000];
    for (n, length) in lengths.into_iter().enumerate() {
        attempt.secrets[format!("S{n}")] = Value::from(format!("{n}-").repeat(length / 2));
    }
    assert_eq!(attempt.run().log_text(), "<***>".repeat(400));
}

/// Secrets are in no file of the attempt, nor in what others see of its processes.
#[test]
fn secrets_are_in_no_file_and_on_no_command_line() {
    let mut attempt = Attempt::script(As::Plain, "echo runs $TOKEN; sleep 600");
    attempt.secrets = json!({"TOKEN": "correct-horse-battery"});
    let running = attempt.start();
    let path = running.attempt.path();
    wait_for("what was printed", || log_of(&path).contains_key(&0).then_some(()));
    let found = |path: &std::path::Path| {
        let grep = Command::new("grep").args(["-r", "-l", "horse"]).arg(path).output().unwrap();
        String::from_utf8(grep.stdout).unwrap()
    };
    assert_eq!(found(&path), "");
    for seen in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{seen}", running.process.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("horse"), "{seen}");
    }
    running.process.signal("TERM");
    assert_eq!(found(&running.ended().attempt.path()), "");
}

/// On a disk that is full the task goes on; what is lost is said, and the outcome is there.
#[test]
fn a_full_disk_loses_the_log_and_neither_the_task_nor_its_outcome() {
    if !is_root() {
        println!("not tried: only root mounts a small disk");
        return;
    }
    for (script, output, lost) in [
        // The rest of the disk goes to a file of the task's; it prints more than is left.
        (
            "cat /dev/zero >$HOME/full 2>/dev/null; head -c 900000 /dev/zero; echo '{}' >$HERE/shared/said",
            false,
            true,
        ),
        // Its end is kept, since it frees the disk before it is over.
        (
            "cat /dev/zero >$HOME/full 2>/dev/null; head -c 400000 /dev/zero; rm $HOME/full; echo ends",
            false,
            true,
        ),
        // An output that takes more as a string than it took in its file, which is removed before.
        (
            "python3 -c 'print(\"{\\\"a\\\": [\" + \"\\\"\\\",\" * 100000 + \"7]}\")' >$OUT
             cat /dev/zero >$HERE/attempt/full 2>/dev/null; exit 0",
            true,
            false,
        ),
    ] {
        let attempt = Attempt::script(As::Root, script);
        // The disk is this mount namespace's alone; what is on it in the end is copied out.
        let (disk, copy) = (attempt.path(), attempt.directory.join("copy"));
        attempt.shared();
        attempt.make();
        fs::rename(&disk, &copy).unwrap();
        fs::create_dir(&disk).unwrap();
        let command = attempt.command();
        let mut mounted = Command::new("unshare");
        let steps = "mount -t tmpfs -o size=1M,mode=777 none $0 && cp -a $1/. $0/ && chmod 777 $0 && d=$0 c=$1 && shift &&
                     \"$@\"; code=$?; rm -f $d/full*; rm -rf $c; cp -a $d $c; exit $code";
        mounted.args(["--mount", "--propagation", "private", "sh", "-c", steps]).arg(&disk).arg(&copy);
        mounted.arg(command.get_program()).args(command.get_args());
        let running = attempt.start_as(mounted);
        let Attempt { directory, .. } = &running.attempt;
        let (directory, code) = (directory.clone(), running.process.ended());
        assert_eq!(code.status.code(), Some(0), "{script}: {code:#?}");
        let copy = directory.join("copy");
        let outcome: Value = serde_json::from_slice(&fs::read(copy.join("outcome.json")).unwrap()).unwrap();
        if output {
            let told = outcome["end"]["failed"].as_str().unwrap_or_default();
            assert!(told.starts_with("its output cannot be kept: No space left"), "{script}: {outcome}");
        } else {
            assert_eq!(outcome["end"], json!({"exited": 0}), "{script}: {outcome}");
        }
        let warnings = outcome["warnings"].to_string();
        assert_eq!(
            warnings.contains("bytes of the log could not be written: No space left"),
            lost,
            "{outcome}"
        );
        let log = log_of(&copy);
        let kept: u64 = log.values().map(|piece| piece.len() as u64).sum();
        assert_eq!(outcome["log_kept_bytes"], kept);
        if script.ends_with("echo ends") {
            // Behind what its supervisor had not read yet when the disk was free again.
            assert!(log.last_key_value().unwrap().1.ends_with(b"ends\n"));
        }
    }
}
