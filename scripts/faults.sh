#!/usr/bin/env bash
# Puts a release build through every fault that needs root, minutes or thousands of connections, and prints one line
# for each: what was done, what was measured, ok or FAILED. Leaves nothing running.
#
# usage: scripts/faults.sh [--short] [ROW...]                 --short is for CI: a few minutes in all
#        scripts/faults.sh --fuzz SECONDS [--seed N]          requests changed at random
#
# CLOACINACTL_BIN   put that binary through it instead of building one
#
# Exit code: 0 all ok, 1 a row failed, 2 wrong usage.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$0"
    exit 0
    ;;
esac

scripts/install-tools.sh postgresql slowhttptest faketime
if [ -z "${CLOACINACTL_BIN:-}" ]; then
    cargo build --release --locked
    CLOACINACTL_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/cloacinactl
fi
export CLOACINACTL_BIN
exec python3 -B scripts/faults/run.py "$@"
