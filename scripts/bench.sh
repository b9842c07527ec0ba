#!/usr/bin/env bash
# Measures a release build beside its limits, nginx for HTTP and pgbench with the server's own SQL for the database, and
# prints one table; writes scripts/bench/chart.svg, and everything that was measured into target/bench/. A machine that
# does nothing else gives figures that mean something. Leaves nothing running.
#
# usage: scripts/bench.sh                    all rows: half an hour
#        scripts/bench.sh ROW...             some of them (a wrong name prints the names)
#        scripts/bench.sh --brief [ROW...]   each row so briefly that it only shows that the bench works: for CI
#        scripts/bench.sh --instructions     instructions for each request, counted by callgrind
#
# CLOACINACTL_BIN   measure that binary instead of building one
#
# Exit code: 0 measured, whatever the figures; 1 a row could not be measured; 2 wrong usage.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

case ${1:-} in
--instructions) tools=(postgresql valgrind) ;;
*) tools=(postgresql wrk nginx) ;;
esac

scripts/install-tools.sh "${tools[@]}"
export PATH="$PATH:$PWD/target/tools/usr/sbin"
build_program
exec python3 -B scripts/bench/run.py "$@"
