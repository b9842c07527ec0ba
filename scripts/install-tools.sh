#!/usr/bin/env bash
# Makes sure that the named tools are there. As root on Debian or Ubuntu what is missing is installed; elsewhere one
# line says what to install.
#
# usage: scripts/install-tools.sh TOOL...      (postgresql, jq, curl, openssl, promtool, nginx, caddy, venv, shellcheck, dash, busybox,
#        slowhttptest, faketime, docker-compose, yaml, zsh, fish, mandoc, systemd-analyze, wrk, valgrind, strace, readelf, pip, npm,
#        musl-gcc, rustc-web, cargo-web, rust-web-src, qemu, mmdebstrap, mke2fs, mkcert, pgbouncer)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

have() { command -v "$1" >/dev/null 2>&1; }

# Whether a tool is there, by its name above.
is_there() {
    case $1 in
    postgresql) have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
    promtool | caddy) have "$1" || [ -x "target/tools/usr/bin/$1" ] ;;
    # They are on the PATH of root alone.
    nginx | pgbouncer) have "$1" || [ -x "/usr/sbin/$1" ] || [ -x "target/tools/usr/sbin/$1" ] ;;
    # Debian ships venv without the part that makes one usable, in a package of its own.
    venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    yaml) python3 -c 'import yaml' 2>/dev/null ;;
    pip) python3 -m pip --version >/dev/null 2>&1 ;;
    qemu) have qemu-system-x86_64 ;;
    # Other packages, and rustup, have programs of the same names.
    rustc-web | cargo-web | rust-web-src)
        dpkg-query --show --showformat='${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'
        ;;
    *) have "$1" ;;
    esac
}

# The Debian package that has a tool.
package_of() {
    case $1 in
    promtool) echo prometheus ;;
    venv) echo python3-venv ;;
    yaml) echo python3-yaml ;;
    pip) echo python3-pip ;;
    readelf) echo binutils ;;
    musl-gcc) echo musl-tools ;;
    systemd-analyze) echo systemd ;;
    qemu) echo qemu-system-x86 ;;
    mke2fs) echo e2fsprogs ;;
    *) echo "$1" ;;
    esac
}

missing=()
for tool in "$@"; do
    case $tool in
    postgresql | jq | curl | openssl | promtool | nginx | caddy | venv | shellcheck | dash | busybox) ;;
    slowhttptest | faketime | docker-compose | yaml | zsh | fish | mandoc | systemd-analyze) ;;
    wrk | valgrind | strace | readelf | pip | npm | musl-gcc | rustc-web | cargo-web | rust-web-src) ;;
    qemu | mmdebstrap | mke2fs | mkcert | pgbouncer) ;;
    *) fail "unknown tool $tool; the head of $0 has their names" ;;
    esac
    is_there "$tool" || missing+=("$tool")
done
[ ${#missing[@]} -gt 0 ] || exit 0

packages=()
for tool in "${missing[@]}"; do packages+=("$(package_of "$tool")"); done
have apt-get || fail "please install: ${missing[*]} (Debian's names: ${packages[*]})"
as_root=()
if [ "$(id -u)" != 0 ]; then
    if have sudo && sudo --non-interactive true 2>/dev/null; then
        as_root=(sudo --non-interactive)
    else
        fail "please install what is missing: sudo apt-get install ${packages[*]}"
    fi
fi

log=$(mktemp)
archives=$(mktemp -d)
trap '"${as_root[@]}" rm -rf "$log" "$archives"' EXIT
# Its many lines matter only when it fails. Somebody else may be installing at the same time: we wait for that to end,
# and keep our downloads where it does not tidy up.
apt() {
    local patience=100
    until "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
        -o Dir::Cache::archives="$archives" -o APT::Sandbox::User=root "$@" >"$log" 2>&1; do
        # There is no such option for the lists' lock.
        if grep -q 'lock /var/lib/apt/lists' "$log" && ((patience-- > 0)); then
            sleep 3
        else
            cat "$log" >&2
            fail "apt-get $* failed; please install: ${packages[*]}"
        fi
    done
}

# A server package makes a cluster and starts it as soon as it is installed. Nobody here asked for that one.
no_cluster=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
no_cluster_of_debian() {
    "${as_root[@]}" mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$no_cluster" >/dev/null
    trap '"${as_root[@]}" rm -rf "$no_cluster" "$log" "$archives"' EXIT
}

# These packages would leave a server running, now and after the next start; one program out of each is enough, and the
# libraries that it needs.
unpack() {
    local download libraries
    download=$(mktemp -d)
    chmod 755 "$download"
    (cd "$download" && apt-get -qq -o APT::Sandbox::User=root download "$1") ||
        fail "apt-get download $1 failed; please install: ${packages[*]}"
    mkdir -p target/tools
    dpkg-deb --extract "$download"/*.deb target/tools
    libraries=$(dpkg-deb --field "$download"/*.deb Depends | tr ',' '\n' | sed -n 's/^ *\(lib[^ (|]*\).*/\1/p')
    rm -r "$download"
    # shellcheck disable=SC2086  # They are several words.
    [ -z "$libraries" ] || apt install --no-install-recommends --no-upgrade $libraries
}

printf 'install-tools: installing %s\n' "${packages[*]}" >&2
apt update
for tool in "${missing[@]}"; do
    case $tool in
    promtool | nginx | caddy | pgbouncer) unpack "$(package_of "$tool")" ;;
    postgresql)
        no_cluster_of_debian
        apt install --no-install-recommends postgresql
        ;;
    # They conflict with Debian's other rustc, and taking that away is not for a script to decide.
    rustc-web | cargo-web | rust-web-src) apt install --no-install-recommends --no-remove "$tool" ;;
    *) apt install --no-install-recommends "$(package_of "$tool")" ;;
    esac
    is_there "$tool" || fail "installed $(package_of "$tool"), and still there is no $tool"
done
