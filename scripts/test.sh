#!/usr/bin/env bash
# Every test, on a machine that has Rust and perhaps nothing else: installs what is missing (see install-tools.sh), runs
# the tests against a throw-away PostgreSQL, then lets strangers' tools look at a live server.
#
# usage: scripts/test.sh [--postgres 16|17|18] [--static] [PART-OF-A-NAME] [-- ARGUMENTS of cargo test]
#
# --postgres          with that PostgreSQL (see install-postgres.sh) instead of the one on the PATH, or Debian's
# PART-OF-A-NAME      only tests with that in their name, such as quickstart::
# --static            test the static program of build-static.sh, also on a host that holds nothing else, which takes root
#
# TEST_DATABASE_URL   a role that may create databases; else a private PostgreSQL is started and removed again
# CLOACINACTL_BIN     test that binary instead of the one that cargo builds here
set -euo pipefail
# Jobs in process groups of their own: what was started is stopped by us, in order.
set -m
. "$(dirname "$0")/lib.sh"

# Their newest at the time of writing; a newer one may ask for more, and then a commit says so.
schemathesis_version=4.32.5
max_examples=100

postgres=
static=no
names=()
while [ $# -gt 0 ]; do
    case $1 in
    --postgres)
        [[ ${2:-} =~ ^1[678]$ ]] || misused "--postgres needs a version: 16, 17 or 18"
        postgres=$2
        shift 2
        ;;
    --static) static=yes && shift ;;
    --) break ;;
    -*) misused "unknown flag $1" ;;
    *) names+=("$1") && shift ;;
    esac
done
[ "${1:-}" != -- ] || shift
set -- "${names[@]}" "$@"

needs_cargo
scripts/install-tools.sh jq curl openssl promtool nginx caddy venv dash busybox docker-compose yaml shellcheck zsh fish mandoc \
    systemd-analyze faketime mkcert pgbouncer
export PATH="$PATH:$PWD/target/tools/usr/bin"
scratch=$(mktemp -d)
server=
# Stops what runs, by its own number, and removes what it left.
clean_up() {
    if [ -n "$server" ]; then
        kill -s TERM "$server" 2>/dev/null || :
        wait "$server" || :
    fi
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# PostgreSQL's user has to get through.
chmod 755 "$scratch"

if [ -z "$postgres" ]; then
    scripts/install-tools.sh postgresql
else
    [ -z "${TEST_DATABASE_URL:-}" ] || fail "TEST_DATABASE_URL names a PostgreSQL, and so does --postgres; please choose"
    programs=$(scripts/install-postgres.sh "$postgres")
    # Debian's server programs are not on its PATH, so these come first there, and their clients come with them.
    if [ "$(id -u)" = 0 ] && ! setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$programs/postgres"; then
        # This directory is closed to the user that the server runs as.
        cp -a "${programs%/bin}" "$scratch/postgres"
        programs=$scratch/postgres/bin
    fi
    export PATH="$programs:$PATH"
    printf '== %s\n' "$(postgres --version)"
fi

if [ "$static" = yes ]; then
    [ -z "${CLOACINACTL_BIN:-}" ] || fail "CLOACINACTL_BIN names a program, and so does --static; please choose"
    CLOACINACTL_BIN=$(scripts/build-static.sh)
    export CLOACINACTL_BIN
    echo "== a host that holds nothing else"
    [ "$(id -u)" = 0 ] || fail "only root can make a host that holds nothing else; run this as root, or without --static"
    cargo test --locked --test it -- --ignored bare_host::
fi

echo "== tests"
# They wait for processes, sockets and deadlines more than half of their time: one more than there are processors, where
# these are few.
[ "$(nproc)" -ge 4 ] || export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) + 1))}"
cargo test --locked "$@"

echo "== a live server"
mkdir -m 700 "$scratch/home"
binary=${CLOACINACTL_BIN:-${CARGO_TARGET_DIR:-target}/debug/cloacinactl}
env -u DATABASE_URL HOME="$scratch/home" CLOACINACTL_BIN="$binary" CLOACINA_QUICKSTART_DATA="$scratch/cluster" \
    scripts/quickstart.sh --bind 127.0.0.1:0 >"$scratch/stdout" 2>"$scratch/stderr" &
server=$!
url=
for _ in $(seq 600); do
    url=$(sed -n 's/^API server is running on //p' "$scratch/stdout")
    [ -z "$url" ] || break
    kill -s 0 "$server" 2>/dev/null || fail "the server does not start: $(cat "$scratch/stderr")"
    sleep 0.1
done
[ -n "$url" ] || fail "the server does not say that it runs: $(cat "$scratch/stderr")"
key=$(cat "$scratch/home/.cloacina/bootstrap-key")

echo "== schemathesis $schemathesis_version"
venv=target/schemathesis-$schemathesis_version
if [ ! -x "$venv/bin/schemathesis" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$schemathesis_version"
fi
config=$PWD/scripts/schemathesis.toml
(cd "$scratch" && timeout 300 "$OLDPWD/$venv/bin/schemathesis" --config-file "$config" run "$url/openapi.json" \
    --header "Authorization: Bearer $key" --max-examples "$max_examples" --seed 1)

echo "== promtool check metrics"
# After all that, so that every family has samples.
said=$(curl --silent --show-error --fail "$url/metrics" | promtool check metrics 2>&1) || fail "promtool: $said"
[ -z "$said" ] || fail "promtool: $said"
echo "promtool has nothing to say"
