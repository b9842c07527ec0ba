#!/bin/sh
# Keeps the newest $KEEP archives. Their names begin with their time, so the order of the alphabet is that of time.
set -eu
cd "$TARGET"
ls | grep '^[0-9-]*T[0-9]*Z-.*\.tar\.gz$' | sort -r | tail -n +"$((KEEP + 1))" | while read -r old; do
    rm -- "$old"
    echo "removed $old"
done
