#!/bin/sh
# Stands in for the HAProxy that Ray Serve starts, and starts it with five things put right in the
# configuration that Ray has just written:
#   - Ray lets the statistics and metrics ports listen on every interface; here they listen on loopback.
#     The endpoint itself is on loopback too, and on GROUPQWEN_LISTEN where `up.sh --listen` names one.
#   - A request id that a client sends is taken away, so that Serve makes one: it is the ledger's key. The client's
#     address is added, which says whether it is a machine of the group.
#   - No splicing of sockets: with it, HAProxy (2.8.25) does not pass on that a client left before its answer came,
#     if the connection to the Gateway had been used before, and spins a whole core until the answer is there.
#   - Who does not finish the headers of a request is sent away: Ray sets no time for it. A WebSocket may be silent for
#     an hour, whatever the time for other clients; the Gateway looks after it.
#   - When no Gateway is there to answer, clients get an error in OpenAI's shape, with the right status.
set -eu

config=
previous=
for argument in "$@"; do
    [ "$previous" = -f ] && config=$argument
    previous=$argument
done

if [ -n "$config" ] && [ -w "$config" ]; then
    sed -i -E 's/^([[:space:]]*bind) \*?:([0-9]+)/\1 127.0.0.1:\2/' "$config"
    sed -i -E "s/^([[:space:]]*)bind 127\.0\.0\.1:${GROUPQWEN_PORT}\$/&\n\1http-request del-header x-request-id\n\1http-request set-header x-groupqwen-client %[src]/" "$config"
    sed -i -E '/^[[:space:]]*option splice-(request|response)$/d' "$config"
    if [ -n "${GROUPQWEN_LISTEN:-}" ]; then
        sed -i -E "s/^([[:space:]]*bind) 127\.0\.0\.1:${GROUPQWEN_PORT}\$/&\n\1 ${GROUPQWEN_LISTEN}:${GROUPQWEN_PORT}/" "$config"
    fi
    sed -i -E "s/^defaults\$/&\n    timeout http-request ${GROUPQWEN_HEADER_SECONDS:-15}s\n    timeout tunnel 1h/" "$config"
    body='{"error":{"message":"GroupQwen is starting or restarting. Try again in a few seconds.","type":"server_error","code":"gateway_unavailable","param":null}}'
    printf 'HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 3\r\nContent-Length: %s\r\n\r\n%s' \
        "${#body}" "$body" > "$(dirname "$config")/500.http"
fi

exec "$GROUPQWEN_HAPROXY" "$@"
