//! Every script in scripts/ says how it is used, and does nothing else, when it is asked to.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::scratch::{Outcome, outcome};

fn run(script: &Path, argument: &str) -> Outcome {
    // As it is typed in its own directory.
    let mut command = Command::new(Path::new(".").join(script.file_name().unwrap()));
    command.current_dir(script.parent().unwrap());
    command.arg(argument).env_clear().env("HOME", "/nowhere");
    // No cargo, no package manager: what the script is asked for needs none.
    outcome(command.env("PATH", "/usr/bin:/bin").output().unwrap())
}

#[test]
fn each_has_a_help() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let scripts = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_run = |path: &Path| path.extension().is_some_and(|end| end == "sh") && !path.ends_with("lib.sh");
    let scripts: Vec<_> = scripts.filter(|path| is_run(path)).collect();
    assert!(scripts.len() >= 12, "{scripts:?}");
    for script in scripts {
        for flag in ["--help", "-h"] {
            let outcome = run(&script, flag);
            assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", script.display());
            let name = script.file_name().unwrap().to_str().unwrap();
            let usage = outcome.stdout.lines().find(|line| line.starts_with("usage: "));
            assert!(usage.is_some_and(|usage| usage.contains(name)), "{name}: {outcome:?}");
        }
    }
}

#[test]
fn the_script_that_tests_takes_no_flag_that_it_does_not_know() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test.sh");
    for wrong in ["--hlep", "--test", "-x", "--postgres", "--postgres=16"] {
        let outcome = run(&script, wrong);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{wrong}: {outcome:?}");
        assert!(outcome.stderr.contains(wrong.split('=').next().unwrap()), "{wrong}: {outcome:?}");
        assert!(outcome.stderr.contains("usage: scripts/test.sh "), "{wrong}: {outcome:?}");
    }
}
