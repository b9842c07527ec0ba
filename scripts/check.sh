#!/usr/bin/env bash
# What is quick to know before a commit: formatting, lints, shell scripts, unit tests, how many crates the program is
# made of, and how many lines. Needs no PostgreSQL.
#
# usage: scripts/check.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -eq 0 ] || misused "unknown argument $1"
needs_cargo

# Distinct crates of the program on Linux, itself included; a version of its own counts as a crate of its own.
max_crates=152

scripts/install-tools.sh shellcheck
echo "== crates"
crates=$(cargo tree --locked --edges normal --target x86_64-unknown-linux-gnu --prefix none --no-dedupe | sort -u | wc -l)
((crates <= max_crates)) ||
    fail "the program is made of $crates crates (cargo tree --edges normal), and $max_crates are allowed"
echo "$crates of at most $max_crates"
echo "== formatting"
cargo fmt --check
echo "== lints"
cargo clippy --locked --all-targets -- -D warnings
echo "== shell scripts"
find scripts .ci -type f \( -name '*.sh' -o -name run \) -print0 | xargs -0 shellcheck --severity=style \
    --external-sources --source-path=SCRIPTDIR
echo "== unit tests"
cargo test --locked --quiet --bin cloacinactl
echo "== lines"
{
    find src tests -name '*.rs'
    find migrations .ci scripts -name '*.sql' -o -name run -o -name '*.sh' -o -name '*.py'
} | sort | xargs awk -f scripts/lines.awk
