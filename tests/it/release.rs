//! `scripts/release.sh`: what it packs is whole, checked by its sums, the same each time, and can be installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::scratch::{Outcome, outcome};
use crate::support::directory::Directory;
use crate::support::program::binary;

const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");

/// Packs a program that calls the one under test, which may be a hundred times as large as a release; the name of the
/// archive.
fn pack(place: &Path) -> String {
    let program = place.join("program");
    let calls = format!("#!/bin/sh\nexec {} \"$@\"\n", fs::canonicalize(binary()).unwrap().display());
    fs::write(&program, calls).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new(Path::new(CHECKOUT).join("scripts/release.sh"));
    command.arg(place).env("CLOACINACTL_BIN", program);
    command.env("SOURCE_DATE_EPOCH", "1795803192");
    let outcome = outcome(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let path = Path::new(outcome.stdout.trim_end());
    assert_eq!(path.parent(), Some(place));
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn shell(place: &Path, line: &str) -> Outcome {
    let outcome = outcome(Command::new("bash").args(["-ec", line]).current_dir(place).output().unwrap());
    assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
    outcome
}

#[test]
fn an_archive_is_checked_unpacked_and_installed() {
    let place = Directory::new();
    let archive = pack(place.path());
    let name = concat!("cloacinactl-", env!("CARGO_PKG_VERSION"), "-x86_64-linux");
    assert_eq!(archive, format!("{name}.tar.gz"));
    shell(place.path(), "sha256sum --check --strict SHA256SUMS");
    let listed = shell(place.path(), &format!("tar -tzf {archive}")).stdout;
    for file in [
        "cloacinactl",
        "README.md",
        "LICENSE",
        "scripts/install.sh",
        "scripts/keys.sh",
        "scripts/run.sh",
        "scripts/deploy/cloacinactl.1",
        "scripts/deploy/cloacinactl.service",
        "scripts/deploy/nginx-verify.conf",
        "scripts/deploy/Caddyfile",
        "completions/cloacinactl.bash",
        "completions/cloacinactl.zsh",
        "completions/cloacinactl.fish",
    ] {
        assert!(listed.lines().any(|line| line == format!("{name}/{file}")), "no {file} in {listed}");
    }
    shell(place.path(), &format!("tar -xzf {archive}"));
    let unpacked = place.join(name);
    shell(&unpacked, "test \"$(./cloacinactl completions fish)\" = \"$(cat completions/cloacinactl.fish)\"");
    shell(&unpacked, "echo postgresql://u:p@h/d >../url; mkdir ../root");
    shell(&unpacked, "scripts/install.sh --root ../root --database-url-file ../url cloacinactl");
    let installed = shell(place.path(), "root/usr/local/bin/cloacinactl --version");
    installed.printed(concat!("cloacinactl ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn the_same_source_gives_the_same_bytes() {
    let (one, other) = (Directory::new(), Directory::new());
    let archive = pack(one.path());
    assert_eq!(pack(other.path()), archive);
    assert!(
        fs::read(one.join(&archive)).unwrap() == fs::read(other.join(&archive)).unwrap(),
        "the two archives differ"
    );
}
