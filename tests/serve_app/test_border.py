from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.serve.context import _RequestContext, _serve_request_context

from deployments.contract import ChatError
from serve_app import border
from serve_app.border import Border, Rules
from serve_app.devices import Devices
from serve_app.keys import KeyRing, create_key
from tests.waiting import until

LIMIT = 100
NODES = [{"Alive": True, "NodeManagerAddress": "100.64.0.9", "Resources": {"groupqwen_macbook": 1.0}}]


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[str]:
    before = border._rules
    path = tmp_path / "keys.json"
    _, made = create_key(path, "owner")
    border.enforce(Rules(KeyRing(path), LIMIT, Devices(["macbook"], lambda: NODES)))
    yield made
    border._rules = before


class Inner:
    """An application that reads its body and says OK."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.state: dict[str, Any] = {}
        self.after: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.state = dict(scope.get("state", {}))
        self.body = b""
        if scope["type"] == "http":
            more = True
            while more:
                message = await receive()
                self.body += message["body"]
                more = message.get("more_body", False)
            self.after = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"OK"})


async def ask(
    inner: Inner,
    *chunks: bytes,
    path: str = "/v1/chat/completions",
    kind: str = "http",
    method: str = "POST",
    serve_id: str = "",
    **headers: str,
) -> tuple[int, dict[str, Any], dict[bytes, bytes], int]:
    """(status, body, headers, chunks of the body that were never read)"""
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": n < len(chunks) - 1} for n, chunk in enumerate(chunks)
    ] or [{"type": "http.request", "body": b""}]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    _serve_request_context.set(_RequestContext(request_id=serve_id))
    lines = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": lines}
    await Border(inner)(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], {} if body == b"OK" else json.loads(body), dict(sent[0]["headers"]), len(waiting)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer gq-wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"x_api_key": "gq-wrong"},
        {"authorization": "Bearer \xff\xfe"},
    ],
)
async def test_without_a_key_nothing_gets_in_and_no_body_is_read(secret: str, headers: dict[str, str]) -> None:
    inner = Inner()
    status, body, answered, unread = await ask(inner, b"x" * 50, b"y", **headers)
    assert (status, body["error"]["type"], body["error"]["code"]) == (
        401,
        "authentication_error",
        "invalid_api_key",
    )
    assert answered[b"www-authenticate"] == b"Bearer"
    assert inner.body is None
    assert unread == 2


@pytest.mark.parametrize("header", ["authorization: Bearer {}", "authorization: bearer  {} ", "x_api_key: {}"])
async def test_a_key_lets_the_whole_body_in_and_the_connection_after_it(secret: str, header: str) -> None:
    inner = Inner()
    name, _, value = header.format(secret).partition(": ")
    status, *_ = await ask(inner, b"a" * 60, b"", b"b" * 40, **{name: value})
    assert status == 200
    assert inner.body == b"a" * 60 + b"b" * 40
    assert inner.state["key"].name == "owner"
    assert len(inner.state["request_id"]) >= 16
    assert inner.after == {"type": "http.disconnect"}


async def test_every_request_has_an_id_of_its_own_that_the_client_does_not_choose(secret: str) -> None:
    seen = set()
    for _ in range(3):
        inner = Inner()
        await ask(inner, authorization=f"Bearer {secret}", x_request_id="chosen")
        seen.add(inner.state["request_id"])
    assert len(seen) == 3
    assert "chosen" not in seen
    await ask(inner, authorization=f"Bearer {secret}", serve_id="serves-own")
    assert inner.state["request_id"] == "serves-own"


async def test_a_machine_of_the_group_is_known_by_the_address_that_haproxy_gives(secret: str) -> None:
    async def known() -> bool:
        inner = Inner()
        await ask(inner, b"", authorization=f"Bearer {secret}", x_groupqwen_client="100.64.0.9")
        return inner.state["device"] == "macbook"

    await until(known)


async def test_a_declared_size_beyond_the_limit_is_refused_unread(secret: str) -> None:
    inner = Inner()
    status, body, answered, unread = await ask(
        inner, b"x", authorization=f"Bearer {secret}", content_length=str(LIMIT + 1)
    )
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert str(LIMIT) in body["error"]["message"]
    assert answered[b"connection"] == b"close"
    assert (inner.body, unread) == (None, 1)


@pytest.mark.parametrize("declared", [{}, {"content_length": "10"}, {"content_length": "-1"}])
async def test_a_streamed_body_is_refused_as_soon_as_it_is_too_large(
    secret: str, declared: dict[str, str]
) -> None:
    inner = Inner()
    status, _, _, unread = await ask(
        inner, b"x" * 60, b"y" * 60, b"z" * 60, authorization=f"Bearer {secret}", **declared
    )
    assert (status, inner.body, unread) == (413, None, 1)


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v1/health"])
async def test_open_paths_need_no_key_but_know_one(secret: str, path: str) -> None:
    inner = Inner()
    assert (await ask(inner, path=path))[0] == 200
    assert inner.state["key"] is None
    assert (await ask(inner, path=path, authorization=f"Bearer {secret}"))[0] == 200
    assert inner.state["key"].name == "owner"
    assert (await ask(Inner(), b"x" * 101, path=path))[0] == 413


@pytest.mark.parametrize("path", ["/docs/", "/v1/health/x", "//docs", "/v1/models"])
async def test_paths_that_look_open_are_not(secret: str, path: str) -> None:
    assert (await ask(Inner(), path=path))[0] == 401


async def test_a_client_that_leaves_amid_its_body_reaches_nothing(secret: str) -> None:
    inner, sent = Inner(), []
    messages: Any = iter(
        [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    _serve_request_context.set(_RequestContext(request_id=""))
    scope = {"type": "http", "path": "/v1/x", "headers": [(b"authorization", f"Bearer {secret}".encode())]}
    await asyncio.wait_for(Border(inner)(scope, receive, send), 5)
    assert inner.body is None
    assert sent[0]["status"] == 400


async def test_a_websocket_passes_with_its_key_or_none_and_lifespan_untouched(secret: str) -> None:
    inner = Inner()
    await ask(inner, kind="websocket", path="/v1/ws")
    assert inner.state["key"] is None
    await ask(inner, kind="websocket", path="/v1/ws", authorization=f"Bearer {secret}")
    assert inner.state["key"].name == "owner"
    inner = Inner()
    await ask(inner, kind="lifespan")
    assert inner.state == {}


async def test_before_it_has_rules_the_border_lets_nothing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(border, "_rules", None)
    inner = Inner()
    with pytest.raises(AssertionError):
        await ask(inner)
    assert inner.body is None


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/models", "chat"),
        ("/v1/models/a/b", "chat"),
        ("/v1/cache/forget", "chat"),
        ("/v1/metrics", "admin"),
        ("/v1/cache/clear", "admin"),
        ("/v1/cache/clear/", "admin"),
        ("/v1/keys", "admin"),
        ("/v1/keys/key_1/rotate", "admin"),
        ("/v1/models/a/b/load", "admin"),
        ("/v1/rollout", "admin"),
        ("/v1/adapters", "admin"),
        ("/v1/adapters/mine/promote", "admin"),
        ("/v1/audit", "admin"),
        ("/v1/examples", "admin"),
        ("/v1/keys\n", "admin"),
        ("/v1/keys/key_1/rotate\n", "admin"),
        ("/v1/keys/\n/rotate", "admin"),
        ("/v1/models/a\n/load", "admin"),
        ("/v1/cache/clear \n", "admin"),
        ("/v1/health", None),
        ("/docs", None),
    ],
)
def test_what_touches_others_wants_another_scope(path: str, wanted: str | None) -> None:
    assert border.wanted_scope(path) == wanted


async def test_a_key_for_chats_is_refused_before_its_body_is_read(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "others.json"
    _, chats = create_key(path, "phone", scopes=("chat",))
    rules = border._rules
    assert rules is not None
    border.enforce(Rules(KeyRing(path), LIMIT, rules.devices))
    inner = Inner()
    status, body, _, unread = await ask(inner, b"x", path="/v1/cache/clear", authorization=f"Bearer {chats}")
    assert (status, unread, inner.body) == (403, 1, None)
    assert body["error"]["type"] == "permission_error"
    assert (await ask(Inner(), b"x", authorization=f"Bearer {chats}"))[0] == 200


async def test_a_body_that_does_not_come_is_not_waited_for(secret: str) -> None:
    rules = border._rules
    assert rules is not None
    border.enforce(replace(rules, body_seconds=0.05))
    inner, sent = Inner(), list[Any]()
    first = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        if not first:
            await asyncio.sleep(10)
        return first.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {secret}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await Border(inner)(scope, receive, send)
    assert sent[0]["status"] == 408 and inner.body is None


async def test_a_client_that_does_not_read_is_cut_off(secret: str) -> None:
    rules = border._rules
    assert rules is not None
    border.enforce(replace(rules, send_seconds=0.05))

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(10)

    headers = [(b"authorization", f"Bearer {secret}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    with pytest.raises(ConnectionError, match="taken nothing"):
        await Border(Inner())(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "method", "acts"), [("/v1/keys", "POST", 1), ("/v1/keys", "GET", 0), ("/v1/route", "POST", 0)]
)
async def test_what_touches_others_leaves_a_row_and_a_full_disk_does_not_undo_it(
    secret: str, path: str, method: str, acts: int
) -> None:
    rules, rows = border._rules, list[dict[str, Any]]()
    assert rules is not None

    def full(row: dict[str, Any]) -> None:
        rows.append(row)
        raise OSError("no space")

    border.enforce(replace(rules, keep=full))
    status, _, _, _ = await ask(Inner(), b"x", path=path, method=method, authorization=f"Bearer {secret}")
    assert status == 200 and len(rows) == acts
    assert [(row["act"], row["status"]) for row in rows] == [(f"{method} {path}", 200)] * acts


@pytest.mark.parametrize(
    "path", ["/v1/keys\n", "/v1/cache/clear\r\n", "/v1/models\x00", "/v1/keys\u2028", "/v1/health\n"]
)
async def test_a_path_with_what_is_none_of_a_paths_reaches_no_route(secret: str, path: str) -> None:
    """A route is found though a line's end follows its name."""
    inner = Inner()
    status, _, _, _ = await ask(inner, b"x", path=path, authorization=f"Bearer {secret}")
    assert (status, inner.body) == (400, None)


async def test_json_that_nests_too_deep_is_refused_before_it_is_parsed(secret: str) -> None:
    rules = border._rules
    assert rules is not None
    border.enforce(replace(rules, body_bytes=2**20))
    for deep in (b"[" * 65, b"[" * 100_000, b'{"messages":' * 65):
        inner = Inner()
        status, body, *_ = await ask(inner, deep, authorization=f"Bearer {secret}")
        assert (status, body["error"]["code"]) == (400, "json_too_deep")
        assert inner.body is None
    status, *_ = await ask(Inner(), b"[" * 64, authorization=f"Bearer {secret}")
    assert status == 200


# -- files ---------------------------------------------------------------------------------------------


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[str]:
    """The secret of a key, where a body has 100 bytes, and a file 1000."""
    before = border._rules
    path = tmp_path / "keys.json"
    _, made = create_key(path, "of a trainer", scopes=("finetune",))
    devices = Devices(["macbook"], lambda: NODES)
    border.enforce(Rules(KeyRing(path), LIMIT, devices, body_seconds=0.1, file_bytes=1000, upload_seconds=0.3))
    yield made
    border._rules = before


async def test_a_file_may_be_larger_than_a_body_and_comes_as_it_is_read(uploads: str) -> None:
    inner = Inner()
    status, *_ = await ask(inner, b"a" * 500, b"b" * 400, path="/v1/files", x_api_key=uploads)
    assert (status, inner.body) == (200, b"a" * 500 + b"b" * 400)
    assert inner.after == {"type": "http.disconnect"}


async def test_a_file_that_says_it_is_too_large_is_not_read_at_all(uploads: str) -> None:
    inner = Inner()
    status, body, *_ = await ask(inner, b"a", path="/v1/files", x_api_key=uploads, content_length="70000")
    assert (status, body["error"]["code"], inner.body) == (413, "request_too_large", None)


async def test_one_that_turns_out_to_be_is_cut_off(uploads: str) -> None:
    with pytest.raises(ChatError) as refused:
        await ask(Inner(), *[b"a" * 1000] * 100, path="/v1/files", x_api_key=uploads)
    assert refused.value.status == 413


async def test_one_that_does_not_go_on_or_does_not_end_is_cut_off(uploads: str) -> None:
    async def ever(pause: float) -> None:
        async def receive() -> Any:
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": b"a", "more_body": True}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/files",
            "headers": [(b"x-api-key", uploads.encode())],
        }
        _serve_request_context.set(_RequestContext(request_id=""))
        await Border(Inner())(scope, receive, send)

    for pause in (60.0, 0.05):
        with pytest.raises(ChatError) as refused:
            await ever(pause)
        assert refused.value.status == 408


@pytest.mark.parametrize(
    ("scopes", "path", "status"),
    [
        (("finetune",), "/v1/files", 200),
        (("finetune",), "/v1/fine_tuning/jobs", 200),
        (("finetune",), "/v1/finetune/start", 200),
        (("finetune",), "/v1/chat/completions", 403),
        (("finetune",), "/v1/keys", 403),
        (("chat",), "/v1/files", 403),
        (("chat",), "/v1/files/file-1/content", 403),
        (("chat",), "/v1/finetune", 403),
        (("chat",), "/v1/fine_tuning/jobs", 403),
        (("admin",), "/v1/finetune", 200),
        (("admin",), "/v1/chat/completions", 403),
    ],
)
async def test_who_may_train(tmp_path: Path, secret: str, scopes: Any, path: str, status: int) -> None:
    assert border._rules is not None
    _, made = create_key(tmp_path / "keys.json", "another", scopes=scopes)
    border._rules.keys._checked = 0.0
    said, *_ = await ask(Inner(), b"{}", path=path, x_api_key=made)
    assert said == status
