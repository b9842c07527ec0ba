#!/usr/bin/env bash
# From a fresh clone to a running server: builds it, finds or starts a PostgreSQL, serves until Ctrl-C.
#
# usage: scripts/quickstart.sh [flags of `cloacinactl serve`]
#
# The private PostgreSQL's URL is written into config.toml of the server's home, unless a URL is there already, so that
# other commands of cloacinactl find it. Tasks of workflows run, as many at the same time as there are processors, and end
# with the server; where the sandbox cannot be held whole, it says what stays open.
#
# DATABASE_URL              use that PostgreSQL; nothing else is started
# CLOACINACTL_BIN           use that binary instead of building one
# CLOACINA_QUICKSTART_DATA  where the private PostgreSQL lives; else ~/.cloacina/quickstart, and as root
#                           /var/lib/cloacina-quickstart (PostgreSQL does not run as root, and /root is closed to others)
set -euo pipefail
# Each job in a process group of its own: Ctrl-C reaches this script alone, which stops the server and then PostgreSQL.
set -m
here=$(cd "$(dirname "$0")/.." && pwd)

say() { printf 'quickstart: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

case ${1:-} in
-h | --help)
    sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$0"
    exit 0
    ;;
esac

# --- the binary -----------------------------------------------------------------------------------------------------

if [ -n "${CLOACINACTL_BIN:-}" ]; then
    binary=$CLOACINACTL_BIN
else
    command -v cargo >/dev/null 2>&1 || fail "there is no cargo; please install Rust 1.95 or later (https://rustup.rs)"
    say "building the program; the first time this takes one to two minutes on two processors, later a few seconds"
    (cd "$here" && cargo build --profile quick --locked)
    binary=${CARGO_TARGET_DIR:-$here/target}/quick/cloacinactl
fi
[ -x "$binary" ] || fail "$binary is not a program"
[ -n "${HOME:-}" ] || fail "HOME is not set, so there is no place for the bootstrap key"

# --home, for the commands beside `serve`.
home=()
home_directory=$HOME/.cloacina
given=("$@")
for index in "${!given[@]}"; do
    case ${given[index]} in
    --) break ;;
    --home) home_directory=${given[index + 1]:-} ;;
    --home=*) home_directory=${given[index]#--home=} ;;
    *) continue ;;
    esac
    home=(--home "$home_directory")
done

# --- PostgreSQL -----------------------------------------------------------------------------------------------------

programs=
# The directory of PostgreSQL's server programs: of those on the PATH, else of the newest that Debian keeps.
find_programs() {
    local found
    if found=$(command -v initdb); then
        found=$(readlink -f "$found")
    else
        found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort --version-sort | tail -n 1)
    fi
    programs=${found%/initdb}
    [ -n "$programs" ]
}

owner=()
# Runs a program of PostgreSQL as the user that owns the cluster. The lock is not for it to hold.
as_owner() {
    local program=$1
    shift
    (cd / && "${owner[@]}" "$programs/$program" "$@" 9>&-)
}

# Whether the process of the lock file is PostgreSQL in our data directory, and not one that got its number since.
postmaster_pid() {
    local pid
    pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) || return 1
    [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$data" ] && echo "$pid"
}

stop_postgresql() {
    postmaster_pid >/dev/null || return 0
    as_owner pg_ctl -D "$data" -m fast -w stop >/dev/null 2>&1 ||
        as_owner pg_ctl -D "$data" -m immediate -w stop >/dev/null 2>&1 ||
        say "PostgreSQL does not stop; its log is $place/log"
}

start_postgresql() {
    # The variables of libpq (PGPORT, PGDATA, PGHOST and more) belong to other databases, and all that is started here
    # would take them.
    unset "${!PG@}"
    if ! find_programs; then
        "$here/scripts/install-tools.sh" postgresql || exit 1
        find_programs || fail "there is no PostgreSQL; please install its server programs, or set DATABASE_URL"
    fi
    place=${CLOACINA_QUICKSTART_DATA:-}
    if [ "$(id -u)" = 0 ]; then
        place=${place:-/var/lib/cloacina-quickstart}
        local user=nobody
        if id -u postgres >/dev/null 2>&1; then user=postgres; fi
        owner=(setpriv "--reuid=$(id -u "$user")" "--regid=$(id -g "$user")" --clear-groups)
        mkdir -p "$place"
        chown "$user:" "$place"
        "${owner[@]}" test -x "$place" || fail "user $user cannot reach $place; set CLOACINA_QUICKSTART_DATA"
    else
        place=${place:-$HOME/.cloacina/quickstart}
        # The server's home is its owner's alone, whoever comes first to make it.
        (umask 077 && mkdir -p "$place")
    fi
    chmod 700 "$place"
    place=$(cd "$place" && pwd -P)
    data=$place/data
    # The address of a socket has room for 107 bytes.
    [ ${#place} -le 85 ] || fail "the path $place is too long for a socket; set CLOACINA_QUICKSTART_DATA"

    # Held by this script and the server, so that it is free again however they end.
    exec 9>"$place/lock"
    flock --nonblock 9 || fail "another quickstart is already running with the data in $place"

    # One that a killed quickstart left is stopped, a lock file that nobody owns any more is removed.
    stop_postgresql
    postmaster_pid >/dev/null || rm -f "$data/postmaster.pid"

    if [ ! -d "$data" ]; then
        say "making a private PostgreSQL in $place, which takes a few seconds"
        # Only a cluster that is complete gets the name, so an interrupted one is made anew.
        rm -rf "$data.new"
        as_owner initdb -D "$data.new" --username=cloacina --auth=trust --encoding=UTF8 --locale=C >"$place/initdb.log" 2>&1 ||
            fail "initdb failed: $(tail -n 1 "$place/initdb.log")"
        echo 'CREATE DATABASE cloacina' |
            as_owner postgres --single -D "$data.new" postgres >>"$place/initdb.log" 2>&1 ||
            fail "cannot make a database: $(tail -n 1 "$place/initdb.log")"
        mv "$data.new" "$data"
    fi
    local version
    version=$("$programs/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    [ "$(cat "$data/PG_VERSION")" = "$version" ] ||
        fail "the data in $data are of PostgreSQL $(cat "$data/PG_VERSION"), but $programs has $version"

    trap stop_postgresql EXIT
    # The last processes of one that was killed may need a moment to see that it is gone.
    launch 2>/dev/null || { sleep 2 && launch; } || fail "PostgreSQL does not start: $(tail -n 1 "$place/log")"
    local socket
    socket=$(sed 's|%|%25|g; s|/|%2F|g; s| |%20|g' <<<"$place")
    # With the port, so that PGPORT of another terminal does not matter either.
    export DATABASE_URL="postgresql:///cloacina?host=$socket&port=5432&user=cloacina"
    remember_database
}

# For the commands in another terminal, which have no DATABASE_URL.
remember_database() {
    local code=0 stored
    stored=$(env -u DATABASE_URL -u DATABASE_URL_FILE "$binary" "${home[@]}" config get database_url 2>/dev/null) || code=$?
    if [ "$code" = 1 ]; then
        "$binary" "${home[@]}" config set database_url "$DATABASE_URL" || say "config.toml has no database URL"
    elif [ "$code" = 0 ] && [ "$stored" != "$DATABASE_URL" ]; then
        say "config.toml has another database URL and stays as it is; the URL here is $DATABASE_URL"
    fi
}

# No port and no password: a socket in a directory that only its owner may enter.
launch() {
    as_owner pg_ctl -D "$data" -l "$place/log" -w -t 60 \
        -o "-c listen_addresses= -c port=5432 -c unix_socket_directories='$place'" start >/dev/null
}

private=
if [ -n "${DATABASE_URL:-}" ]; then
    say "using the PostgreSQL of DATABASE_URL"
else
    private=yes
    start_postgresql
fi

# --- the server -----------------------------------------------------------------------------------------------------

# Whether the caller gave a flag.
has_flag() {
    local flag
    for flag in "${given[@]}"; do
        case $flag in
        --) return 1 ;;
        "$1" | "$1"=*) return 0 ;;
        esac
    done
    return 1
}

# Whether a setting has this default, which neither a flag nor a variable nor config.toml changes.
is_default() {
    local value
    if has_flag "--${1//_/-}"; then return 1; fi
    value=$("$binary" "${home[@]}" config get "$1" 2>/dev/null) || value=
    [ "$value" = "$2" ]
}

# Why no task would run with the flags so far and these.
obstacle() {
    "$binary" serve --check "${flags[@]}" "$@" "${given[@]}" 2>&1 >/dev/null </dev/null |
        sed -n 's/^cloacinactl: no task would run here: //p' || :
}

# What the server runs tasks with, where the caller says nothing of it: as many as there are processors, which end with it.
flags=()
choose_flags() {
    local why
    if is_default task_slots 0; then flags+=(--task-slots "$(nproc)"); fi
    if is_default stop_tasks ''; then flags+=(--stop-tasks); fi
    if [ "$(id -u)" = 0 ] && is_default task_user ''; then flags+=(--task-user nobody); fi
    why=$(obstacle)
    if [ -n "$why" ] && is_default sandbox required && [ -z "$(obstacle --sandbox partial)" ]; then
        flags+=(--sandbox partial)
        say "tasks run with --sandbox partial, which leaves open to them:"
        "$binary" serve --check "${flags[@]}" "${given[@]}" 2>/dev/null </dev/null | sed -n 's/^ok: open to tasks: /  /p' >&2 || :
    elif [ -n "$why" ]; then
        say "no task will run here: $why"
    fi
}
choose_flags

# Hands on what the server prints, and says what to type once all its endpoints are listed.
narrate() {
    # Goes when the server goes, not before it.
    trap '' INT TERM HUP
    local line address=
    while IFS= read -r line; do
        printf '%s\n' "$line"
        case $line in
        *'running on http://'*)
            address=${line##*http://}
            # Everywhere is also here.
            address=${address/#0.0.0.0:/localhost:}
            address=${address/#\[::\]:/localhost:}
            ;;
        esac
        # The server prints its list in one write: where nothing more is to be read, the list has ended.
        if [ -n "$address" ] && ! read -rt 0; then
            what_to_type "$address"
            address=
        fi
    done
}

what_to_type() {
    local key command
    key=$(printf '%q' "$home_directory/bootstrap-key")
    command=$(printf '%q ' "$(realpath -s "$binary")" "${home[@]}")
    cat <<NEXT

In another terminal, make a key that may read and ends after 90 days, and list all keys:

  curl -s -X POST http://$1/auth/keys \\
    -H "Authorization: Bearer \$(cat $key)" \\
    -H "Content-Type: application/json" \\
    -d '{"name": "ci-deploy", "permissions": "read", "expires_in": "90d"}'

  curl -s http://$1/auth/keys -H "Authorization: Bearer \$(cat $key)"

The same straight on the database, should every key be lost:

NEXT
    if [ -z "$private" ]; then printf '  export DATABASE_URL=...  # as in this terminal\n'; fi
    cat <<NEXT
  ${command}keys create --name rescue
  ${command}keys list

Ctrl-C stops the server${private:+ and its PostgreSQL}; the next run finds the same data and the same keys.
NEXT
}

server=
# shellcheck disable=SC2317  # It is called by the trap.
stop_server() { [ -z "$server" ] || kill -s TERM "$server" 2>/dev/null || :; }
trap stop_server INT TERM HUP
# The private PostgreSQL's URL is for the environment alone; a flag of the caller's comes before it.
"$binary" serve "${flags[@]}" "$@" </dev/null > >(narrate) &
server=$!
status=0
wait "$server" || status=$?
# A signal ends the wait, not the server: that drains, and says itself how it went.
while kill -s 0 "$server" 2>/dev/null; do
    status=0
    wait "$server" || status=$?
done
exit "$status"
