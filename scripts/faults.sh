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
. "$(dirname "$0")/lib.sh"

scripts/install-tools.sh postgresql slowhttptest faketime
build_program
exec python3 -B scripts/faults/run.py "$@"
