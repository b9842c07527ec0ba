#!/usr/bin/env bash
# `docker compose` in the virtual machine, a plugin of Docker's: Debian 12 has the older docker-compose alone, which
# waits for nobody, and wants a terminal for what it executes.
set -euo pipefail
if [ "${1:-}" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "cloacinactl"}'
    exit
fi
shift

words=() wait=no
for word; do
    case $word in
    --wait) wait=yes ;;
    exec) words+=(exec -T) ;;
    *) words+=("$word") ;;
    esac
done
if [ "$wait" = no ]; then exec docker-compose "${words[@]}"; fi

docker-compose "${words[@]}"
health='{{.Name}} {{.State.Status}} {{.State.Health.Status}}'
while true; do
    states=$(docker-compose ps -q | xargs docker inspect --format "$health")
    if ! grep -qv ' running healthy$' <<<"$states"; then exit; fi
    if grep -q ' unhealthy$' <<<"$states" || grep -qv ' running ' <<<"$states"; then
        printf '%s\n' "$states" >&2
        exit 1
    fi
    sleep 1
done
