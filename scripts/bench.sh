#!/usr/bin/env bash
# Measures a release build beside its limits, nginx for HTTP and pgbench with the server's own SQL for the database, and
# prints one table; writes scripts/bench/chart.svg, and everything that was measured into target/bench/. A machine that
# does nothing else gives figures that mean something. Leaves nothing running.
#
# usage: scripts/bench.sh                    all rows: a quarter of an hour
#        scripts/bench.sh ROW...             some of them (a wrong name prints the names)
#        scripts/bench.sh --brief [ROW...]   each row so briefly that it only shows that the bench works: for CI
#        scripts/bench.sh --instructions     instructions for each request, counted by callgrind
#
# CLOACINACTL_BIN   measure that binary instead of building one
#
# Exit code: 0 measured, whatever the figures; 1 a row could not be measured; 2 wrong usage.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$0"
    exit 0
    ;;
--instructions) tools=(postgresql valgrind) ;;
*) tools=(postgresql wrk nginx) ;;
esac

scripts/install-tools.sh "${tools[@]}"
export PATH="$PATH:$PWD/target/tools/usr/sbin"
if [ -z "${CLOACINACTL_BIN:-}" ]; then
    cargo build --release --locked
    CLOACINACTL_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/cloacinactl
fi
export CLOACINACTL_BIN
exec python3 -B scripts/bench/run.py "$@"
