#!/usr/bin/env bash
# What is quick to know before a commit: formatting, lints, shell scripts, unit tests, how many crates the program is
# made of, and how many lines. Needs no PostgreSQL.
#
# usage: scripts/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$0"
    exit 0
    ;;
esac
if [ $# -gt 0 ]; then
    echo "usage: scripts/check.sh" >&2
    exit 2
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "check: there is no cargo; please install Rust 1.95 or later (https://rustup.rs)" >&2
    exit 1
fi

# Distinct crates of the program on Linux, itself included; a version of its own counts as a crate of its own.
max_crates=160

scripts/install-tools.sh shellcheck
echo "== crates"
crates=$(cargo tree --locked --edges normal --target x86_64-unknown-linux-gnu --prefix none --no-dedupe | sort -u | wc -l)
if ((crates > max_crates)); then
    echo "check: the program is made of $crates crates (cargo tree --edges normal), and $max_crates are allowed" >&2
    exit 1
fi
echo "$crates of at most $max_crates"
echo "== formatting"
cargo fmt --check
echo "== lints"
cargo clippy --locked --all-targets -- -D warnings
echo "== shell scripts"
find scripts .ci -type f \( -name '*.sh' -o -name run \) -print0 | xargs -0 shellcheck --severity=style
echo "== unit tests"
cargo test --locked --quiet --bin cloacinactl
echo "== lines"
{
    find src tests -name '*.rs'
    find migrations .ci scripts -name '*.sql' -o -name run -o -name '*.sh' -o -name '*.py'
} | sort | xargs awk -f scripts/lines.awk
