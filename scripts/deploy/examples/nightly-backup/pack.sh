#!/bin/sh
# Packs $SOURCE into $TARGET. A name that ends in .part is not finished; an attempt that died leaves one at most, and the
# next attempt writes it anew.
set -eu
name=$(date -u +%Y-%m-%dT%H%M%SZ)-$CLOACINA_EXECUTION_ID.tar.gz
part=$TARGET/$CLOACINA_EXECUTION_ID.part
tar -C "$SOURCE" -czf "$part" .
sync "$part"
mv "$part" "$TARGET/$name"
echo "packed $(wc -c <"$TARGET/$name") bytes into $name"
printf '{"archive":"%s"}\n' "$name" >"$CLOACINA_OUTPUT"
