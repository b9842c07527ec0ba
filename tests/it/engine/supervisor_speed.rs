//! How many attempts a second a supervisor makes possible, beside a loop that starts the same three processes. Printed, not
//! asserted: `cargo test --test it speed -- --ignored --nocapture`.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use super::attempt::{As, Attempt};
use crate::support::program::binary;

const ATTEMPTS: usize = 1_000;

/// How many of these a second, so many at once.
fn rate(at_once: usize, run: impl Fn() + Sync) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| (0..ATTEMPTS / at_once).for_each(|_| run()));
        }
    });
    ATTEMPTS as f64 / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn speed_of_attempts() {
    for at_once in [1, 2] {
        // The program starts, finds that it is to do nothing, and ends: twice, as an attempt is two of it and the command.
        let start = |mut command: Command| {
            command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().unwrap();
        };
        let three = rate(at_once, || {
            for name in ["supervise-task", "exec-task"] {
                let mut command = Command::new(binary());
                command.arg(name);
                start(command);
            }
            start(Command::new("/bin/true"));
        });
        println!("{at_once} at once: {three:.0} times three processes a second");
        let attempts = rate(at_once, || {
            let attempt = Attempt::new(As::Plain, &["true"]);
            attempt.make();
            let mut command = attempt.command();
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"{}\n").unwrap();
            assert!(child.wait().unwrap().success());
        });
        println!("{at_once} at once: {attempts:.0} attempts a second");
    }
}
