#!/usr/bin/env bash
# Does what the README says about systemd and about containers in virtual machines, under a real systemd and with a real
# Docker, and prints a line for each check: ok, or FAILED and what was seen. They are Debian 12, emulated by QEMU, without
# a network. Needs root on Debian, for their disk, and about ten minutes. Leaves nothing running.
#
# usage: scripts/vm.sh [systemd|containers]...        both when none is named
#
# CLOACINACTL_BIN   check that binary instead of building one; containers take the static one in any case
#
# Exit code: 0 all ok, 1 a check failed, is missing, or a machine did not end by itself; 2 wrong usage.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

for part in "$@"; do
    case $part in
    systemd | containers) ;;
    *) misused "unknown part $part" ;;
    esac
done
[ $# -gt 0 ] || set -- systemd containers

scripts/install-tools.sh qemu readelf
image=$(scripts/vm/image.sh)
build_program
programs=(--program "$CLOACINACTL_BIN" target/release/cloacinactl)
if [[ " $* " == *" containers "* ]]; then
    static=$CLOACINACTL_BIN
    [[ $(readelf -lW "$static") != *INTERP* ]] || static=$(scripts/build-static.sh)
    version=$("$static" --version)
    programs+=(--program "$static" "target/dist/cloacinactl-${version#cloacinactl }-x86_64-linux-musl")
fi
exec python3 -B scripts/vm/run.py --image "$image" "${programs[@]}" "$@"
