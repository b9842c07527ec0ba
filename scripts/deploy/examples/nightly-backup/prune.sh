#!/bin/sh
# Keeps the newest $KEEP archives. Their names begin with their time, so the order of the alphabet is that of time.
set -eu
cd "$TARGET"
set -- [0-9]*T[0-9]*Z-*.tar.gz
while [ $# -gt "$KEEP" ]; do
    rm -- "$1"
    echo "removed $1"
    shift
done
