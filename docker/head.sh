#!/usr/bin/env bash
# The head in a container: brings GroupQwen up, stays while it answers, and takes it down in order on SIGTERM.
#   head.sh          start, and stay
#   head.sh health   0 if a question would be answered now (Docker's health check)
# Exits with 0 after SIGTERM, and with 1 when GroupQwen did not start or has not answered for PATIENCE_SECONDS: then
# Docker starts the container anew. What dies inside is started again long before that, by Ray and supervisord.
set -euo pipefail

profile=${GROUPQWEN_PROFILE:-cpu}
port=${HTTP_PORT:-8000} # `ports.http` of the profile
patience=${PATIENCE_SECONDS:-300}
pause=${PAUSE_SECONDS:-10}

say() { echo "head: $*"; }

# The health of the endpoint needs no key (with one it would say more), and bash no HTTP client.
healthy() (
    exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
    printf 'GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
    IFS=' ' read -r -t 15 _ status _ <&3 && [ "$status" = 200 ]
)

if [ "${1:-}" = health ]; then
    healthy
    exit
fi

# A trap waits for what runs in the foreground; so everything that takes time runs behind, and is waited for.
child=
behind() {
    "$@" &
    child=$!
    wait "$child"
}

take_down() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    groupqwen down || say "not everything could be stopped in order"
}

# shellcheck disable=SC2329 # the trap invokes it
stop() {
    trap '' TERM INT # once is enough
    say "stopping"
    take_down
    exit 0
}
trap stop TERM INT

say "starting profile $profile; the first start fetches its weights"
# All addresses of the container; which of them can be reached from where is for Compose to say. What `up` prints at
# its end has the API key in it, which should not be in `docker logs`; problems come on standard error.
if ! behind groupqwen up --profile "$profile" --listen 0.0.0.0 --no-ask >/dev/null; then
    take_down
    exit 1
fi
say "ready"

well=$SECONDS
while [ $((SECONDS - well)) -lt "$patience" ]; do
    behind sleep "$pause"
    if healthy; then well=$SECONDS; fi
done
say "no answer for $patience s: giving up, so that the container starts anew"
take_down
exit 1
