# shellcheck shell=bash
# What the scripts around it begin with: prints the script's head and ends where an argument asks for that, and goes to
# the project's directory. Those that people copy alone (install.sh, keys.sh, quickstart.sh, run.sh) do without it.

usage() { sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$script"; }

fail() {
    printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
    exit 1
}

# Ends a script that was called wrongly, with what is wrong and the usage.
misused() {
    printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
    sed -n 's/^# usage: /usage: /p' "$script" >&2
    exit 2
}

needs_cargo() {
    command -v cargo >/dev/null 2>&1 || fail "there is no cargo; please install Rust 1.95 or later (https://rustup.rs)"
}

# Sets CLOACINACTL_BIN to a release build, unless it names a program already.
build_program() {
    if [ -z "${CLOACINACTL_BIN:-}" ]; then
        cargo build --release --locked
        CLOACINACTL_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/cloacinactl
    fi
    export CLOACINACTL_BIN
}

script=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
for argument in "$@"; do
    case $argument in
    --) break ;;
    -h | --help)
        usage
        exit 0
        ;;
    esac
done
