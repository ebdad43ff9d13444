#!/bin/sh
# Stands in for the HAProxy that Ray Serve starts, and starts it with seven things put right in the
# configuration that Ray has just written:
#   - Ray lets the statistics and metrics ports listen on every interface; here they listen on loopback.
#     The endpoint itself is on loopback too, and on GROUPQWEN_LISTEN where `up.sh --listen` names one.
#   - A request id that a client sends is taken away, so that Serve makes one: it is the ledger's key. The client's
#     address is added, which says whether it is a machine of the group.
#   - No splicing of sockets: with it, HAProxy (2.8.25) does not pass on that a client left before its answer came,
#     if the connection to the Gateway had been used before, and spins a whole core until the answer is there.
#   - Who does not finish the headers of a request is sent away: Ray sets no time for it. A WebSocket may be silent for
#     an hour, whatever the time for other clients; the Gateway looks after it.
#   - `Expect: 100-continue` is answered here, when the headers are there. Where the Gateway answers it, HAProxy (2.8.25)
#     passes on some answers without their bodies, if the request's body had come with its headers. A body that is larger
#     than may be is not asked for: its client hears so from the Gateway before it sends anything.
#   - A client that says it goes on in HTTP/2 is refused: all that is tested here of borders, times and slow clients is
#     HTTP/1.1.
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
    announced="{ req.hdr(expect) -m found } !{ req.hdr_val(content-length) gt ${GROUPQWEN_BODY_BYTES:-33554432} }"
    rules=
    for rule in \
        "http-request del-header x-request-id" \
        "http-request set-header x-groupqwen-client %[src]" \
        "http-request wait-for-body time ${GROUPQWEN_HEADER_SECONDS:-15}s at-least 1 if $announced" \
        "http-request del-header expect"; do
        rules="$rules\n\1$rule"
    done
    sed -i -E "s/^([[:space:]]*)bind 127\.0\.0\.1:${GROUPQWEN_PORT}\$/&$rules/" "$config"
    sed -i -E '/^[[:space:]]*option splice-(request|response)$/d' "$config"
    if [ -n "${GROUPQWEN_LISTEN:-}" ]; then
        sed -i -E "s/^([[:space:]]*bind) 127\.0\.0\.1:${GROUPQWEN_PORT}\$/&\n\1 ${GROUPQWEN_LISTEN}:${GROUPQWEN_PORT}/" "$config"
    fi
    sed -i -E "s/^defaults\$/&\n    timeout http-request ${GROUPQWEN_HEADER_SECONDS:-15}s\n    timeout tunnel 1h\n    option disable-h2-upgrade/" "$config"
    body='{"error":{"message":"GroupQwen is starting or restarting. Try again in a few seconds.","type":"server_error","code":"gateway_unavailable","param":null}}'
    printf 'HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 3\r\nContent-Length: %s\r\n\r\n%s' \
        "${#body}" "$body" > "$(dirname "$config")/500.http"
fi

exec "$GROUPQWEN_HAPROXY" "$@"
