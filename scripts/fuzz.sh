#!/usr/bin/env bash
# Reads and unpacks archives, and reads forms, with changes at random, for so many minutes (10, where nothing is said).
# Fails where one makes the program panic or write outside of its place, where GNU tar makes something else of an archive
# that is accepted, or where a form's file is another one. It prints its seeds.
#
# usage: scripts/fuzz.sh [MINUTES]
#
# CLOACINA_FUZZ_SEED   the seed of a run that failed
set -euo pipefail
. "$(dirname "$0")/lib.sh"

minutes=${1:-10}
[[ $minutes =~ ^[0-9]+$ ]] || misused "$minutes is no number of minutes"
export CLOACINA_FUZZ_SECONDS=$((60 * minutes))
exec cargo test --bin cloacinactl at_random -- --ignored --nocapture
