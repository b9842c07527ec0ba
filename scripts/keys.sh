#!/bin/sh
# Keys over HTTP, with curl and jq.
#
# usage: keys.sh create NAME [PERMISSIONS] [EXPIRES_IN]    the new key, and nothing else, on stdout
#        keys.sh list                                      a JSON object on a line for each key, newest first
#        keys.sh revoke ID
#        keys.sh rotate ID [GRACE]                         the new key, and nothing else, on stdout
#        keys.sh whoami                                    whose key this is, as a JSON object
#
# PERMISSIONS is admin, write or read; EXPIRES_IN and GRACE are like 90d, 12h, 30m or 45s.
#
# CLOACINA_URL           the server; else http://localhost:8080
# CLOACINA_API_KEY       the key to do it with
# CLOACINA_API_KEY_FILE  or a file with it; else ~/.cloacina/bootstrap-key
#
# Exit code: 0 done, 1 not done, and the server's message is on stderr, 2 wrong usage.
set -eu
# Bytes are bytes: what is visible does not depend on the language.
export LC_ALL=C

say() { printf 'keys.sh: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}
usage() {
    say "$1; see keys.sh --help"
    exit 2
}

# Keys go to other programs through here-documents: neither an argument nor the environment of a process shows one.
line_ends=$(printf '\n\r')
key=${CLOACINA_API_KEY:-}
unset CLOACINA_API_KEY
read_key() {
    if [ -z "$key" ]; then
        file=${CLOACINA_API_KEY_FILE:-${HOME:-}/.cloacina/bootstrap-key}
        key=$(cat -- "$file") || fail "no key: set CLOACINA_API_KEY, or CLOACINA_API_KEY_FILE to the name of a file"
    fi
    # A file that was written on Windows ends its lines with CR LF.
    while :; do
        case $key in
        *["$line_ends"]) key=${key%?} ;;
        *) break ;;
        esac
    done
    case $key in
    '') fail "the key is empty" ;;
    *["$line_ends"]*) fail "there is a line break in the key; it must be one line of visible characters" ;;
    *[![:graph:]]*) fail "the key must be one line of visible characters, without a space" ;;
    [\"\']clk_*) fail "the key stands in quotes; remove the quotes" ;;
    esac
}

# A filter for what is shown to people: whatever answered, a terminal is to obey none of it.
plain='explode | map(select(. >= 32 and (. < 127 or . > 159))) | implode'

newline='
'
# answered FILTER... runs jq on the answer.
answered() {
    jq "$@" <<BODY
$body
BODY
}

# request METHOD PATH [BODY] sets `body` to the answer, or fails with the server's message.
request() {
    method=$1 path=$2
    shift 2
    if [ $# -gt 0 ]; then
        set -- --header 'Content-Type: application/json' --data-binary "$1"
    fi
    answer=$(
        curl --disable --silent --show-error --globoff --connect-timeout 10 --max-time 60 --request "$method" \
            --write-out '\n%{http_code}' --header @- "$@" --url "${CLOACINA_URL%/}$path" <<HEADER
Authorization: Bearer $key
HEADER
    ) || fail "no answer from $CLOACINA_URL"
    status=${answer##*"$newline"}
    body=${answer%"$newline"*}
    case $status in
    2??) ;;
    *)
        message=$(answered --raw-output ".error // empty | $plain" 2>/dev/null) || :
        fail "${message:-$CLOACINA_URL answered $status, and not as this server does}"
        ;;
    esac
}

# The new key on stdout; whose it is on stderr.
show_key() {
    answered --raw-output --exit-status .key || fail "there is no key in the answer"
    say "$1 $(answered --raw-output ".name + \" \" + .id | $plain")"
}

check_id() {
    case $1 in
    '' | *[!0-9A-Fa-f-]*) usage "an ID is like a1b2c3d4-e5f6-7890-abcd-ef1234567890" ;;
    esac
}

# count LEAST MOST NUMBER checks how many arguments a command got.
count() {
    if [ "$3" -lt "$1" ] || [ "$3" -gt "$2" ]; then
        usage "wrong number of arguments"
    fi
}

case ${1:-} in
'') usage "no command given" ;;
-h | --help | help)
    sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p;}' "$0"
    exit 0
    ;;
esac
command=$1
shift
for tool in curl jq; do
    command -v "$tool" >/dev/null || fail "please install $tool"
done
CLOACINA_URL=${CLOACINA_URL:-http://localhost:8080}
case $CLOACINA_URL in
# Not repeated: it may have a password in it, which would be of no use, as the key stands in its place.
*@*) usage "CLOACINA_URL must not have a user or a password in it" ;;
http://* | https://*) ;;
*) usage "CLOACINA_URL must be like http://localhost:8080" ;;
esac

case $command in
create)
    count 1 3 $#
    read_key
    # shellcheck disable=SC2016  # These are jq's variables.
    json=$(jq --null-input --compact-output --arg name "$1" --arg permissions "${2:-}" --arg expires_in "${3:-}" \
        '{$name, $permissions, $expires_in} | with_entries(select(.key == "name" or .value != ""))')
    request POST /auth/keys "$json"
    show_key created
    ;;
list)
    count 0 0 $#
    read_key
    next=
    while :; do
        request GET "/auth/keys?limit=1000${next:+&after=$next}"
        # In ASCII, so that no name has anything that a terminal would obey.
        answered --compact-output --ascii-output '.keys[]'
        next=$(answered --raw-output '.next // empty')
        [ -n "$next" ] || break
    done
    ;;
revoke)
    count 1 1 $#
    check_id "$1"
    read_key
    request DELETE "/auth/keys/$1"
    printf 'revoked %s\n' "$1"
    ;;
rotate)
    count 1 2 $#
    check_id "$1"
    read_key
    if [ $# -eq 2 ]; then
        # shellcheck disable=SC2016  # This is jq's variable.
        request POST "/auth/keys/$1/rotate" "$(jq --null-input --compact-output --arg grace "$2" '{$grace}')"
    else
        request POST "/auth/keys/$1/rotate"
    fi
    show_key "rotated $1 to"
    ;;
whoami)
    count 0 0 $#
    read_key
    request GET /auth/whoami
    answered --compact-output --ascii-output .
    ;;
*) usage "unknown command" ;;
esac
