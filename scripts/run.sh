#!/bin/sh
# Runs a workflow: starts an execution over HTTP, shows what its tasks print, and ends as it ends. With curl and jq.
#
# usage: run.sh TENANT WORKFLOW [--idempotency-key KEY] [CONTEXT-FILE]
#
# CONTEXT-FILE           a file with the JSON object that tasks read; - is stdin; else {}
# --idempotency-key KEY  the same KEY, within a day, is the same execution: what is shown is that of the first time. Else a
#                        random one, so that an answer which was lost starts nothing twice.
#
# What a task prints is on stdout, each line behind the task's name; all else is on stderr. Ctrl-C ends this script, and
# not the execution.
#
# CLOACINA_URL           the server; else http://localhost:8080
# CLOACINA_API_KEY       a key that may write
# CLOACINA_API_KEY_FILE  or a file with it; else ~/.cloacina/bootstrap-key
#
# Exit code: 0 Completed, 1 Failed, Cancelled or not started, 2 wrong usage.
set -eu
# Bytes are bytes: what is visible does not depend on the language.
export LC_ALL=C
umask 077

say() { printf 'run.sh: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}
usage() {
    say "$1; see run.sh --help"
    exit 2
}

# --- what is asked for ----------------------------------------------------------------------------------------------

tenant='' workflow='' context='' idempotency_key='' operands=0
operand() {
    operands=$((operands + 1))
    case $operands in
    1) tenant=$1 ;;
    2) workflow=$1 ;;
    3) context=$1 ;;
    *) usage "wrong number of arguments" ;;
    esac
}
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n 's/^# \{0,1\}//; 2,/^set/{/^set/!p;}' "$0"
        exit 0
        ;;
    --idempotency-key)
        [ $# -gt 1 ] || usage "$1 needs a value"
        idempotency_key=$2
        shift
        ;;
    --idempotency-key=*) idempotency_key=${1#*=} ;;
    -) operand "$1" ;;
    -*) usage "unknown flag ${1%%=*}" ;;
    *) operand "$1" ;;
    esac
    shift
done
[ "$operands" -ge 2 ] || usage "a TENANT and a WORKFLOW are needed"
for name in "$tenant" "$workflow"; do
    case $name in
    '' | *[!0-9A-Za-z_-]*) usage "names of tenants and workflows are of letters, digits, _ and -" ;;
    esac
done
case $idempotency_key in
*[![:graph:]]*) usage "the value of --idempotency-key must be of visible characters, without a space" ;;
esac
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

# --- the key --------------------------------------------------------------------------------------------------------

# It goes to curl through a here-document: neither an argument nor the environment of a process shows it.
line_ends=$(printf '\n\r')
key=${CLOACINA_API_KEY:-}
unset CLOACINA_API_KEY
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

# --- requests -------------------------------------------------------------------------------------------------------

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
body=$work/body head=$work/head

# request METHOD PATH [CURL'S ARGUMENT...] leaves the answer in files and sets `status`. While the server is restarted it is
# asked again: nothing that is asked here is done twice. A server that does not answer for a minute is gone.
request() {
    method=$1 path=$2
    shift 2
    status=$(
        curl --disable --silent --show-error --globoff --connect-timeout 10 --max-time 90 --request "$method" \
            --retry 60 --retry-delay 1 --retry-max-time 60 --retry-connrefused --dump-header "$head" \
            --output "$body" --write-out '%{http_code}' --header @- "$@" --url "${CLOACINA_URL%/}$path" 2>"$work/errors" <<HEADER
Authorization: Bearer $key
HEADER
    ) || fail "no answer from $CLOACINA_URL: $(tail -n 1 "$work/errors")"
}

# A filter for what is shown to people: whatever answered, a terminal is to obey none of it.
plain='explode | map(select(. >= 32 and (. < 127 or . > 159))) | implode'

expect_success() {
    case $status in
    2??) return ;;
    esac
    message=$(jq --raw-output ".error // empty | $plain" "$body" 2>/dev/null) || :
    fail "${message:-$CLOACINA_URL answered $status, and not as this server does}"
}

# --- start ----------------------------------------------------------------------------------------------------------

# Not written anew by jq, which may take digits of large numbers.
case $context in
'') printf '{}' >"$work/context" ;;
-) cat >"$work/context" ;;
*) cat -- "$context" >"$work/context" || usage "cannot read the context" ;;
esac
jq --slurp --exit-status 'length == 1 and (.[0] | type == "object")' "$work/context" >/dev/null 2>&1 ||
    usage "the context must be one JSON object"
{
    printf '{"context":'
    cat "$work/context"
    printf '}'
} >"$work/request"
[ -n "$idempotency_key" ] || idempotency_key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

tenant_path=/tenants/$tenant
request POST "$tenant_path/workflows/$workflow/execute" --header 'Content-Type: application/json' \
    --header "Idempotency-Key: $idempotency_key" --data-binary "@$work/request"
expect_success
execution=$(jq --raw-output '.execution_id // empty' "$body" 2>/dev/null) || :
case $execution in
'' | *[!0-9a-f-]*) fail "$CLOACINA_URL answered without an execution_id" ;;
esac
say "execution $execution"
execution_path=$tenant_path/executions/$execution
trap 'say "execution $execution goes on; POST $execution_path/cancel ends it"; exit 1' INT TERM HUP

# --- follow ---------------------------------------------------------------------------------------------------------

# What a terminal would obey is left out; what a task prints in between, as UTF-8, is not.
controls=$(printf '\302[\200-\237]')
escape=$(printf '\033')
# show TASK ENDED: the whole lines of a new piece, and what is left of one for the next time, or at the end as well.
show() {
    cat "$work/rest.$1" "$body" >"$work/text" 2>/dev/null || :
    : >"$work/rest.$1"
    if [ -n "$2" ]; then
        if [ -s "$work/text" ] && [ -n "$(tail -c 1 "$work/text")" ]; then echo >>"$work/text"; fi
    else
        # All but what stands behind the last line end.
        lines=$(wc -l <"$work/text")
        tail -n "+$((lines + 1))" "$work/text" >"$work/rest.$1"
        head -n "$lines" "$work/text" >"$work/lines"
        mv "$work/lines" "$work/text"
    fi
    sed "s/$escape\[[0-9;]*m//g; s/$controls//g; s/^/$1 | /" "$work/text" | tr -d '\000-\010\013-\037\177'
}

# follow TASK ATTEMPTS ENDED SECONDS shows what is new in a task's log, of earlier attempts too. The last request may wait.
follow() {
    task=$1 attempts=$2 ended=$3 seconds=$4
    attempt=1 offset=0
    if [ -e "$work/at.$task" ]; then read -r attempt offset <"$work/at.$task"; fi
    while [ "$attempt" -le "$attempts" ]; do
        is_over=$ended
        [ "$attempt" = "$attempts" ] || is_over=yes
        wait=
        [ -n "$is_over" ] || [ "$seconds" = 0 ] || wait="&wait=$seconds"
        request GET "$execution_path/tasks/$task/log?attempt=$attempt&after=$offset$wait"
        next=$offset
        case $status in
        # The logs of the oldest executions go first, when there are too many.
        404 | 410) : >"$body" ;;
        *)
            expect_success
            next=$(tr -d '\r' <"$head" | sed -n 's/^[Xx]-[Ll]og-[Nn]ext: *\([0-9][0-9]*\)$/\1/p' | tail -n 1)
            next=${next:-$offset}
            ;;
        esac
        # A piece may be less than there is.
        if [ "$next" != "$offset" ]; then
            show "$task" ''
            offset=$next
            [ -n "$is_over" ] || break
        elif [ -n "$is_over" ]; then
            : >"$body"
            show "$task" yes
            attempt=$((attempt + 1)) offset=0
        else
            break
        fi
    done
    echo "$attempt $offset" >"$work/at.$task"
}

query=
while :; do
    request GET "$execution_path$query"
    expect_success
    cp "$body" "$work/execution"
    state=$(jq --raw-output .status "$work/execution") || fail "$CLOACINA_URL answered with no JSON"
    # Names of tasks are of letters, digits, - and _.
    jq --raw-output '.tasks[] | select(.attempts > 0) | [.id, .attempts, .status] | @tsv' "$work/execution" >"$work/tasks"
    # Where one task runs, its log is waited for; where there are more, or none, the execution is.
    running=$(grep -c 'Running$' "$work/tasks") || :
    query='?wait=1' log_seconds=0
    if [ "$running" = 1 ]; then query='' log_seconds=5; fi
    while read -r id attempts of_task; do
        case $id in
        '' | *[!0-9A-Za-z_-]*) continue ;;
        esac
        case $of_task in
        Running) follow "$id" "$attempts" '' "$log_seconds" ;;
        # Its next attempt may follow, and this one is over.
        *) follow "$id" "$attempts" yes 0 ;;
        esac
    done <"$work/tasks"
    case $state in
    Completed | Failed | Cancelled) break ;;
    esac
done

jq --raw-output ".tasks[] | select(.error != null) | \"\(.id): \(.status): \(.error)\" | $plain" "$work/execution" |
    while read -r line; do say "$line"; done
error=$(jq --raw-output ".error // empty | $plain" "$work/execution")
say "$state${error:+: $error}"
[ "$state" = Completed ]
