#!/bin/sh
# Counts the words of each file of its share, which is the PART-th of OF: part.sh PART OF
set -eu
part=$1 of=$2
number=0 words=0
for file in input/*; do
    number=$((number + 1))
    [ $((number % of)) -eq $((part % of)) ] || continue
    count=$(wc -w <"$file")
    echo "$file: $count"
    words=$((words + count))
done
printf '{"words_%s":%s}\n' "$part" "$words" >"$CLOACINA_OUTPUT"
