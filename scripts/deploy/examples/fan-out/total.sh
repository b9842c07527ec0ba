#!/bin/sh
# Adds what the parts found. Its context, on standard input, holds the outputs of them all.
set -eu
total=$(grep -o '"words_[0-9]*":[0-9]*' | cut -d: -f2 | awk '{ sum += $1 } END { print sum + 0 }')
echo "$total words"
printf '{"words":%s}\n' "$total" >"$CLOACINA_OUTPUT"
