#!/usr/bin/env bash
# Makes sure that the named tools are there. As root on Debian or Ubuntu what is missing is installed; elsewhere one
# line says what to install.
#
# usage: scripts/install-tools.sh TOOL...      (postgresql, jq, curl, promtool, venv, shellcheck)
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'install-tools: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Whether a tool is there, by its name above.
is_there() {
    case $1 in
    postgresql) have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
    promtool) have promtool || [ -x target/tools/usr/bin/promtool ] ;;
    # Debian ships venv without the part that makes one usable, in a package of its own.
    venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    *) have "$1" ;;
    esac
}

# The Debian package that has a tool.
package_of() {
    case $1 in
    promtool) echo prometheus ;;
    venv) echo python3-venv ;;
    *) echo "$1" ;;
    esac
}

missing=()
for tool in "$@"; do
    case $tool in
    postgresql | jq | curl | promtool | venv | shellcheck) ;;
    *) fail "unknown tool $tool; usage: $0 postgresql|jq|curl|promtool|venv|shellcheck..." ;;
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
trap 'rm -f "$log"' EXIT
# Its many lines matter only when it fails.
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "apt-get $* failed; please install: ${packages[*]}"
    }
}

# A server package makes a cluster and starts it as soon as it is installed. Nobody here asked for that one.
no_cluster=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
no_cluster_of_debian() {
    "${as_root[@]}" mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$no_cluster" >/dev/null
    trap '"${as_root[@]}" rm -f "$no_cluster"; rm -f "$log"' EXIT
}

printf 'install-tools: installing %s\n' "${packages[*]}" >&2
apt update
for tool in "${missing[@]}"; do
    case $tool in
    promtool)
        # The package would leave Prometheus itself running as a service; one program out of it is enough.
        download=$(mktemp -d)
        chmod 755 "$download"
        (cd "$download" && apt-get -qq -o APT::Sandbox::User=root download prometheus)
        mkdir -p target/tools
        dpkg-deb --extract "$download"/prometheus_*.deb target/tools
        rm -r "$download"
        ;;
    postgresql)
        no_cluster_of_debian
        apt install --no-install-recommends postgresql
        ;;
    *) apt install --no-install-recommends "$(package_of "$tool")" ;;
    esac
    is_there "$tool" || fail "installed $(package_of "$tool"), and still there is no $tool"
done
