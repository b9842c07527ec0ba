#!/usr/bin/env bash
# Mixed load on a release build for so many minutes (10, where nothing is said): reads, checks of keys, keys that come
# and go, connections that come and go, nonsense. Fails unless memory, descriptors and threads are flat: after the
# first minute (or the first third of a shorter soak) memory may grow by a tenth and 4 MiB, which an allocator may
# still find to keep; descriptors by 8, the sessions and clients of the moment; threads not at all.
#
# usage: scripts/soak.sh [MINUTES]      0.75 is for CI
#
# CLOACINACTL_BIN   soak that binary instead of building one
set -euo pipefail
. "$(dirname "$0")/lib.sh"

minutes=${1:-10}
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || misused "$minutes is no number of minutes"
scripts/install-tools.sh postgresql
build_program
exec python3 -B scripts/faults/run.py --soak "$minutes"
