#!/usr/bin/env bash
# Packs what a host needs that has no Rust: the static program, its man page and completions, install.sh with the units,
# keys.sh, run.sh, and the examples for proxies and containers.
#
#   cloacinactl-VERSION-x86_64-linux.tar.gz
#   SHA256SUMS                                  for `sha256sum -c SHA256SUMS` in that directory
#
# The archive's path is printed. The same source gives the same bytes.
#
# usage: scripts/release.sh [DIRECTORY]      target/dist, where none is named
#
# CLOACINACTL_BIN     pack that binary instead of the one of build-static.sh
# SOURCE_DATE_EPOCH   the time of the files in it; else that of the last commit
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ $# -gt 1 ] || [[ ${1:-} == -* ]]; then misused "it takes one DIRECTORY, and no flags"; fi

place=${1:-target/dist}
mkdir -p "$place"
place=$(cd "$place" && pwd)
binary=${CLOACINACTL_BIN:-$(scripts/build-static.sh)}
version=$("$binary" --version) || fail "$binary is no cloacinactl"
name=cloacinactl-${version#cloacinactl }-x86_64-linux
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || SOURCE_DATE_EPOCH=0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# As in the checkout, so that the README's commands work in both.
content=$scratch/$name
install -D -m 755 -t "$content" "$binary"
[ "$(basename "$binary")" = cloacinactl ] || mv "$content/$(basename "$binary")" "$content/cloacinactl"
install -D -m 644 -t "$content" README.md LICENSE
install -D -m 755 -t "$content/scripts" scripts/install.sh scripts/keys.sh scripts/run.sh
for file in $(cd scripts/deploy && find . -type f -printf '%P\n'); do
    # The examples' scripts are run.
    if [ -x "scripts/deploy/$file" ]; then mode=755; else mode=644; fi
    install -D -m "$mode" "scripts/deploy/$file" "$content/scripts/deploy/$file"
done
mkdir "$content/completions"
for shell in bash zsh fish; do
    "$content/cloacinactl" completions "$shell" >"$content/completions/cloacinactl.$shell"
done
chmod 755 "$content/completions"
chmod 644 "$content"/completions/*

tar -C "$scratch" --sort=name --owner=0 --group=0 --numeric-owner --format=ustar --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" |
    gzip -9 -n >"$scratch/$name.tar.gz"
mv "$scratch/$name.tar.gz" "$place/$name.tar.gz"
(cd "$place" && sha256sum "$name.tar.gz" >SHA256SUMS)
echo "$place/$name.tar.gz"
