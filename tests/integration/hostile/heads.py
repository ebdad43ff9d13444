"""Headers, paths, and bytes that are no request at all."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.integration.conftest import SMALL
from tests.integration.hostile.bodies import CHEAP, HELLO, ROUTE
from tests.integration.hostile.case import KEY, Case, request

line_bytes = st.binary(max_size=30).map(lambda raw: raw.translate(None, b"\r\n\x00"))
shown = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30).map(
    lambda t: t.encode("latin-1")
)
TYPES = [
    b"text/plain",
    b"application/json; charset=utf-16",
    b"application/json;;;=",
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b"application/x-www-form-urlencoded",
    b"application/vnd.api+json",
    b"/",
    b"json",
    b"application/json" + b";a=b" * 500,
]
KEYS = [
    b"Bearer",
    b"Bearer  ",
    b"bearer\t" + KEY,
    b"Bearer " + KEY + b"x",
    b"Bearer " + KEY + b", Bearer " + KEY,
    b"Basic OnB3",
    KEY,
    b"Bearer gq-" + b"A" * 5000,
    b'Digest username="x"',
    b"Bearer \xff\xfe\x80",
    b"Bearer null",
]
NUMBERS_IN_TEXT = [
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b"0x10",
    b"1_0",
    b"",
    b"\xb2",
    b"9" * 400,
    b"0",
    b"1,5",
    b" 1 ",
]
OURS = [b"device", b"session", b"preference", b"max-cost", b"remote", b"client", b"decision", b"x"]
FRAMING = [
    b"transfer-encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"transfer-encoding: identity, chunked",
    b"transfer-encoding: xchunked",
    b"transfer-encoding: \x0bchunked",
    b"transfer-encoding:\tchunked\r\ntransfer-encoding: identity",
    b"content-length: 0",
    b"content-length: +10",
    b"content-length: 10, 10",
    b"content-length: -1",
    b"content-length: 99999999999999999999999",
    b"content-length: 1e1",
]
SERVES = [
    b"x-request-timeout-seconds: -1",
    b"x-request-timeout-seconds: abc",
    b"x-request-disconnect-disabled: maybe",
    b"serve_multiplexed_model_id: ../..",
    b"x-request-id: \xff" + b"r" * 300,
    b"traceparent: 00-junk",
    b"expect: 100-continue",
    b"expect: 200-maybe",
    b"range: bytes=9-1",
    b"content-encoding: gzip",
    b"accept: nothing/at all;q=x",
    b"connection: close, keep-alive, x-groupqwen-device, authorization",
    b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"te: trailers",
    b"trailer: content-length",
    b"forwarded: for=1.2.3.4;;",
]
VALID = json.dumps({"messages": HELLO, **CHEAP}).encode()
whole_lines = st.one_of(
    st.sampled_from(SERVES),
    st.builds(lambda name, value: b"x-groupqwen-%s: %s" % (name, value), st.sampled_from(OURS), shown),
    st.builds(lambda value: b"x-groupqwen-max-cost: " + value, st.sampled_from(NUMBERS_IN_TEXT)),
    st.builds(lambda value: b"x-openwebui-user-id: " + value, shown),
    st.builds(lambda n: b"\r\n".join(b"x-%d: y" % i for i in range(n)), st.integers(1, 25)),
    st.builds(lambda n: b"x-long: " + b"a" * n, st.integers(1, 4000)),
    st.builds(lambda name, value: b"x-%s: %s" % (name, value), st.sampled_from([b"a_b", b"~", b"!#$"]), shown),
)
odd_lines = st.one_of(
    st.sampled_from(FRAMING),
    st.builds(lambda name, value: name + b":" + value, line_bytes, line_bytes),
    st.builds(lambda value: b"x-a: b\r\n folded " + value, line_bytes),
    st.builds(lambda value: b"x-a: b\r" + value + b"\nx: y", line_bytes),
    st.builds(lambda n: b"x-long: " + b"a" * n, st.integers(10_000, 70_000)),
    st.builds(lambda n: b"\r\n".join(b"x-%d: y" % i for i in range(n)), st.integers(90, 300)),
    st.sampled_from([b"x-nul: a\x00b", b"no colon", b": no name", b"host: other", b"host: \xff"]),
)
target = st.one_of(
    st.just(ROUTE), st.just(ROUTE), st.sampled_from(["/v1/models", "/v1/feedback", "/v1/embeddings", "/v1/health"])
)
header_cases = st.one_of(
    st.builds(
        lambda path, lines: request(path, VALID, *lines, kind="header"),
        target,
        st.lists(whole_lines, min_size=1, max_size=3),
    ),
    st.builds(
        lambda path, value: request(path, VALID, kind="content type", content_type=value),
        target,
        st.sampled_from(TYPES) | shown,
    ),
    st.builds(
        lambda path, value: request(path, VALID, kind="key", authorization=value),
        target,
        st.sampled_from(KEYS) | shown,
    ),
    st.builds(lambda value: request(ROUTE, VALID, kind="cache control", cache_control=value), shown.filter(bool)),
    st.builds(
        lambda path, lines: request(path, VALID, *lines, kind="odd header", whole=False),
        target,
        st.lists(odd_lines, min_size=1, max_size=2),
    ),
    st.builds(
        lambda n: request(ROUTE, VALID, kind="length", whole=n == len(VALID), content_length=str(n).encode()),
        st.integers(0, 2 * len(VALID)),
    ),
)

WORDS = [
    "v1",
    "models",
    "keys",
    "requests",
    "usage",
    "cache",
    "entries",
    "..",
    ".",
    "",
    "%00",
    "%ff",
    "%2e%2e%2f",
    "%",
    "a" * 3000,
]
WORDS += [
    "%0d%0aset-cookie:x",
    "%e2%80%ae",
    SMALL,
    "load",
    "unload",
    "pin",
    "rotate",
    "key_000000000000",
    "audit",
    ";",
    "*",
    "-",
]
QUERIES = [
    "days=0",
    "days=1e9",
    "by=%00",
    "by=day",
    "limit=-1",
    "limit=1&limit=2",
    "query=%00",
    "query=%ff%fe",
    "query=" + "q" * 3000,
]
QUERIES += [
    "key=key_000000000000",
    "variant=../x",
    "knowledge=%ed%a0%80",
    "=",
    "&&&",
    "a[b]=c",
    "days=" + "9" * 5000,
    "query=a%20b",
]
path_cases = st.builds(
    lambda start, words, queries, method: request(
        start + "/".join(words) + ("?" + "&".join(queries) if queries else ""), method=method, kind="path"
    ),
    st.sampled_from(
        ["/", "/v1/", "/v1/", "/v1/models/", "/v1/requests/", "/v1/keys/", "/v1/usage", "/v1/cache/entries"]
    ),
    st.lists(st.sampled_from(WORDS), max_size=3),
    st.lists(st.sampled_from(QUERIES), max_size=2),
    st.sampled_from(["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]),
)


WELL = request("/v1/models/nobody", method="GET", kind="raw", content_length=b"", content_type=b"").data
CHUNKED = (
    b"POST /v1/route HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + KEY + b"\r\n"
    b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
)
CHUNKS = [
    b"0",
    b"-1",
    b"ffffffffffffffffff",
    b"5;a=b",
    b"5\n",
    b"g",
    b" 5",
    b"0x5",
    b"",
    b"5\r\nhello\r\n0",
    b"1\r\n",
]
SMUGGLED = b"GET /v1/models/smuggled HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + KEY + b"\r\n\r\n"
LINES = [
    b"GET /",
    b"GET / HTTP/0.9",
    b"GET / HTTP/1.0",
    b"GET / HTTP/2.0",
    b"GET / HTTP/9.9",
    b"GET  /  HTTP/1.1",
    b"get / http/1.1",
    b"GET http://evil.example/v1/models HTTP/1.1",
    b"GET * HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT localhost:22 HTTP/1.1",
    b"TRACE / HTTP/1.1",
    b"PRI * HTTP/2.0\r\n\r\nSM",
    b"GET /\x00 HTTP/1.1",
    b"GET /\xff HTTP/1.1",
    b"GET /#fragment HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"M" * 9000 + b" / HTTP/1.1",
    b"",
]
raw_bytes = st.one_of(
    st.binary(max_size=80),
    st.integers(0, len(WELL)).map(lambda n: WELL[:n]),
    st.builds(
        lambda line, rest: line + b"\r\n" + rest,
        st.sampled_from(LINES),
        st.sampled_from([b"\r\n", b"host: a\r\n\r\n", b""]),
    ),
    st.integers(2, 12).map(lambda n: WELL * n),
    st.builds(lambda size, more: CHUNKED + size + b"\r\n" + more + b"\r\n", st.sampled_from(CHUNKS), line_bytes),
    st.builds(
        lambda line, size: request(ROUTE, size + b"\r\n\r\n" + SMUGGLED, line, kind="raw").data,
        st.sampled_from(FRAMING),
        st.sampled_from([b"0", b"1\r\na", b"00", b"0;x"]),
    ),
    st.builds(
        lambda at, junk: WELL[:at] + junk + WELL[at:],
        st.integers(0, len(WELL)),
        st.sampled_from([b"\x00", b"\r", b"\n", b"\x80", b":"]),
    ),
)
raw_cases = raw_bytes.map(lambda data: Case("raw", data, whole=False, method="GET"))
