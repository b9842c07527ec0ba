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
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$0"
    exit 0
    ;;
esac

minutes=${1:-10}
if ! [[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
    echo "usage: scripts/soak.sh [MINUTES]" >&2
    exit 2
fi
scripts/install-tools.sh postgresql
if [ -z "${CLOACINACTL_BIN:-}" ]; then
    cargo build --release --locked
    CLOACINACTL_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/cloacinactl
fi
export CLOACINACTL_BIN
exec python3 -B scripts/faults/run.py --soak "$minutes"
