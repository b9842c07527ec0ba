#!/usr/bin/env bash
# Installs cloacinactl as a service of systemd (250 or later), or takes it away again. What is already as it should be is
# left alone, so it may be run again at any time, also to bring a newer binary.
#
# usage: scripts/install.sh [--dry-run] [--root DIR] [--database-url-file FILE] BINARY
#        scripts/install.sh --uninstall [--purge] [--dry-run] [--root DIR]
#
# The first time, the service is set to run tasks of workflows, as many at once as there are processors, and to do so with
# --sandbox partial where the whole sandbox cannot be held: it says then what stays open. `cloacinactl config set task_slots 0`
# turns that off; later runs leave it as it is.
#
# BINARY                    the program to install, such as target/release/cloacinactl
# --database-url-file FILE  the file that holds the database's URL; else the one of the last time is kept, or asked for
# --uninstall               removes program and units; data, secrets, settings and the user stay
# --purge                   removes those too: every file under /etc/cloacina and /var/lib/cloacina
# --dry-run                 says what would be done, and changes nothing
# --root DIR                works on the system whose files are in DIR, as when an image is made
set -euo pipefail
umask 022
# Where userdel is, which is not on everybody's.
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'install: %s\n' "$*"; }
fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}
misused() {
    printf 'install: %s\n%s\n' "$*" "$(sed -n 's/^# \(usage:\|      \) /\1 /p' "$0")" >&2
    exit 2
}

# --- what is asked for ----------------------------------------------------------------------------------------------

binary='' url_file='' root='' uninstall=no purge=no dry_run=no
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p}' "$0"
        exit 0
        ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    --dry-run) dry_run=yes ;;
    --root | --database-url-file)
        [ $# -gt 1 ] || misused "$1 needs a value"
        if [ "$1" = --root ]; then root=$2; else url_file=$2; fi
        [ -n "$2" ] || misused "the value of $1 is empty"
        shift
        ;;
    -*) misused "unknown flag $1" ;;
    *)
        [ -z "$binary" ] || misused "one BINARY is enough: $binary, or $1?"
        binary=$1
        ;;
    esac
    shift
done
if [ "$uninstall" = yes ]; then
    [ -z "$binary$url_file" ] || misused "--uninstall takes neither a BINARY nor --database-url-file"
else
    [ "$purge" = no ] || misused "--purge goes with --uninstall"
    [ -n "$binary" ] || misused "which BINARY?"
fi
if [ -n "$root" ]; then
    [ -d "$root" ] || fail "--root $root is no directory"
    root=$(cd "$root" && pwd -P)
    root=${root%/}
fi
[ -n "$root" ] || [ "$dry_run" = yes ] || [ "$(id -u)" = 0 ] || fail "only root can do that; try: sudo $0 ..."

program=$root/usr/local/bin/cloacinactl
units=$root/etc/systemd/system
users=$root/etc/sysusers.d/cloacinactl.conf
settings=$root/etc/cloacina
secret=$settings/database-url
data=$root/var/lib/cloacina
user=cloacina

# The systemd that runs is that of the root directory, and of no other.
systemd_runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# --- how it is done -------------------------------------------------------------------------------------------------

owner=0
[ -z "$root" ] || owner=$(id -u)
changes=0
# Says what is done next; fails when it is not to be done.
act() {
    changes=$((changes + 1))
    if [ "$dry_run" = yes ]; then
        say "would $*"
        return 1
    fi
    say "$*"
}

# Whether a file or directory is there with this mode and is root's, or in another root directory ours.
is_ours() { [ ! -L "$1" ] && [ "$(stat -c '%a %u' "$1" 2>/dev/null)" = "$2 $owner" ]; }

# Makes a file the same as another, whole or not at all: by renaming, since a program that runs cannot be written to.
place() {
    local source=$1 target=$2 mode=$3 new
    if is_ours "$target" "$mode" && cmp -s "$source" "$target"; then return 0; fi
    act "write $target" || return 0
    mkdir -p "$(dirname "$target")"
    new=$(mktemp "$target.XXXXXX")
    if ! { cat "$source" >"$new" && chmod "$mode" "$new" && mv -f "$new" "$target"; }; then
        rm -f "$new"
        fail "cannot write $target"
    fi
}

remove() {
    local path
    for path; do
        [ -e "$path" ] || [ -L "$path" ] || continue
        act "remove $path" || continue
        rm -rf -- "$path"
    done
}

has_user() {
    if [ -n "$root" ]; then
        grep -qs "^$user:" "$root/etc/passwd"
    else
        getent passwd "$user" >/dev/null
    fi
}

# --- taking it away -------------------------------------------------------------------------------------------------

if [ "$uninstall" = yes ]; then
    if systemd_runs && [ -e "$units/cloacinactl.service" ] && act "stop and disable cloacinactl"; then
        systemctl disable --now cloacinactl.socket cloacinactl.service
    fi
    remove "$program" "$units/cloacinactl.service" "$units/cloacinactl.socket" "$users"
    if [ "$purge" = yes ]; then
        remove "$units/cloacinactl.service.d" "$units/cloacinactl.socket.d" "$settings" "$data"
        if has_user && act "remove the user $user"; then
            userdel ${root:+--prefix "$root"} "$user" || fail "cannot remove the user $user"
        fi
    fi
    if systemd_runs && [ "$changes" -gt 0 ] && [ "$dry_run" = no ]; then systemctl daemon-reload; fi
    [ "$changes" -gt 0 ] || say "there is nothing to remove"
    for kept in "$settings" "$data"; do
        if [ "$purge" = no ] && [ -e "$kept" ]; then say "$kept stays; --uninstall --purge removes it"; fi
    done
    exit 0
fi

# --- everything that can be wrong, before anything is changed -------------------------------------------------------

# Not one of that name on the PATH.
case $binary in
*/*) ;;
*) binary=./$binary ;;
esac
if [ ! -f "$binary" ] || [ ! -x "$binary" ]; then fail "$binary is not a program"; fi
version=$(timeout -k 5 10 "$binary" --version 2>/dev/null) || version=
case $version in
cloacinactl\ *) ;;
*) fail "$binary is no cloacinactl, or not one for this machine" ;;
esac
if systemd_runs; then
    systemd_version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "${systemd_version:-0}" -ge 250 ] || fail "the unit needs systemd 250 or later, and this is ${systemd_version:-unknown}"
fi
has_user || command -v systemd-sysusers >/dev/null || fail "there is no systemd-sysusers; please install systemd"

# Written later, from memory: it may come from a pipe.
url=
if [ -n "$url_file" ]; then
    url=$(cat "$url_file") || fail "cannot read the database's URL from $url_file"
elif [ -s "$secret" ]; then
    url=$(cat "$secret") || fail "cannot read $secret"
elif [ "$dry_run" = yes ]; then
    :
elif [ -t 0 ]; then
    # In one, so that it hides what is typed before it asks: an answer that was pasted at once would show.
    read -rsp 'URL of the database, like postgresql://USER:PASSWORD@HOST:5432/DATABASE (not shown): ' url
    echo >&2
else
    fail "where is the database? Give --database-url-file FILE, a file that holds its URL"
fi
# A file that was written on Windows ends its lines with CR LF; the LF is gone already.
while [ "${url%$'\r'}" != "$url" ] || [ "${url%$'\n'}" != "$url" ]; do url=${url%?}; done
case $url in
*[[:cntrl:]]*) fail "the database's URL has a line break in it; it is like postgresql://USER:PASSWORD@HOST:5432/DATABASE" ;;
# The form of keys and values has spaces, as in "host=/run/postgresql user=cloacina".
postgres://?* | postgresql://?* | [a-z_]*=*) ;;
*) [ "$dry_run$url" = yes ] || fail "the database's URL must be like postgresql://USER:PASSWORD@HOST:5432/DATABASE" ;;
esac

# --- putting it into place ------------------------------------------------------------------------------------------

place "$here/deploy/cloacinactl.sysusers" "$users" 644
if ! has_user && act "make the user $user"; then
    systemd-sysusers ${root:+--root="$root"} cloacinactl.conf >/dev/null 2>&1 || fail "cannot make the user $user"
fi
if ! is_ours "$settings" 700 && act "make $settings"; then
    mkdir -p "$settings"
    chmod 700 "$settings"
    chown "$owner" "$settings"
fi
# Printed by the shell itself, so that no list of processes shows it.
if ! is_ours "$secret" 600 || [ "$(cat "$secret")" != "$url" ]; then
    if act "write $secret"; then
        new=$(mktemp "$secret.XXXXXX")
        printf '%s\n' "$url" >"$new"
        mv -f "$new" "$secret"
    fi
fi
is_first=no
[ -e "$program" ] || is_first=yes
before=$changes
place "$binary" "$program" 755
program_changed=$((changes - before))
before=$changes
place "$here/deploy/cloacinactl.socket" "$units/cloacinactl.socket" 644
place "$here/deploy/cloacinactl.service" "$units/cloacinactl.service" 644
units_changed=$((changes - before))
if systemd_runs; then
    if [ "$units_changed" -gt 0 ] && [ "$dry_run" = no ]; then systemctl daemon-reload; fi
    for unit in cloacinactl.socket cloacinactl.service; do
        if ! systemctl is-enabled --quiet "$unit" 2>/dev/null && act "enable $unit"; then
            systemctl enable --quiet "$unit"
        fi
    done
fi

# --- tasks of workflows ---------------------------------------------------------------------------------------------

# Runs the program as the service does, with the database's URL where only the service's user can see it.
as_service() {
    DATABASE_URL=$url setpriv --reuid="$user" --regid="$user" --clear-groups -- "$program" --home "$data" "$@" </dev/null
}

# Why the service would run no task with these flags.
obstacle() {
    as_service serve --check --task-slots 1 "$@" 2>&1 >/dev/null | sed -n 's/^cloacinactl: no task would run here: //p' || :
}

if systemd_runs && [ "$is_first" = yes ] && ! grep -qs '^ *task_slots' "$data/config.toml" &&
    act "let the service run tasks, $(nproc) at a time"; then
    install -d -m 700 -o "$user" -g "$user" "$data"
    as_service config set task_slots "$(nproc)"
    why=$(obstacle)
    if [ -n "$why" ] && [ -z "$(obstacle --sandbox partial)" ]; then
        as_service config set sandbox partial
        say "with --sandbox partial, since the whole sandbox cannot be held: $why"
        as_service serve --check --task-slots 1 --sandbox partial 2>/dev/null |
            sed -n 's/^ok: open to tasks: /install: open to tasks: /p' || :
    elif [ -n "$why" ]; then
        say "but none will run: $why"
    fi
fi

# --- what to do next ------------------------------------------------------------------------------------------------

[ "$changes" -gt 0 ] || say "there is nothing to change: $version is installed"
if [ "$dry_run" = yes ]; then
    :
elif ! systemd_runs; then
    say "systemd does not run ${root:+in }${root:-here}; where it does: systemctl enable --now cloacinactl"
elif ! systemctl is-active --quiet cloacinactl.service; then
    say "next: systemctl start cloacinactl"
    say "then the first key is in /var/lib/cloacina/bootstrap-key"
elif [ $((program_changed + units_changed)) -gt 0 ]; then
    say "next: systemctl restart cloacinactl (no client is refused meanwhile)"
fi
