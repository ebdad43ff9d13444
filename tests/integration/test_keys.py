"""Keys: who may do what, through the endpoint and by command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from groupqwen.stack.deploy import http
from tests.integration.conftest import MIDDLE, SMALL, Stack, wait_for


@pytest.fixture
def make(stack: Stack) -> Iterator[Any]:
    """Makes keys, which are gone afterwards."""
    made: list[str] = []

    def new(**fields: Any) -> dict[str, Any]:
        key: dict[str, Any] = stack.post("/keys", {"name": "of a test", **fields}).json()
        made.append(key["id"])
        return key

    yield new
    for key_id in made:
        http().delete(f"{stack.url}/keys/{key_id}", headers=stack.headers)


def ask(stack: Stack, secret: str, path: str, body: Any = None, method: str = "POST") -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}", "cache-control": "no-store"}
    return http().request(method, stack.url + path, json=body, headers=headers, timeout=60)


def chat(model: str = "auto") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 2}


def works(stack: Stack, secret: str) -> bool:
    return ask(stack, secret, "/models", method="GET").status_code == 200


def test_a_key_may_do_what_it_was_made_for_and_nothing_else(stack: Stack, make: Any) -> None:
    key = make(variants=[MIDDLE])
    assert key["scopes"] == ["chat"] and key["secret"].startswith("gq-")
    wait_for(lambda: works(stack, key["secret"]), 20, "a new key does not count")
    answer = ask(stack, key["secret"], "/chat/completions", chat())
    assert answer.headers["x-groupqwen-variant"] == MIDDLE, "whoever else would be meant"
    refused = ask(stack, key["secret"], "/chat/completions", chat(SMALL))
    assert refused.status_code == 403 and "may not ask" in refused.text
    for method, path in (
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("DELETE", f"/keys/{key['id']}"),
        ("POST", f"/keys/{key['id']}/rotate"),
        ("POST", "/cache/clear"),
        ("GET", "/rollout"),
        ("POST", f"/models/{SMALL}/unload"),
    ):
        told = ask(stack, key["secret"], path, {} if method == "POST" else None, method)
        assert told.status_code == 403 and "'admin'" in told.text, path
    for trick in (
        "/keys%0A",
        f"/keys/{key['id']}/rotate%0A",
        "/cache/clear%0A",
        "/keys/",
        "/cache%2Fclear",
        "//v1/keys",
    ):
        told = ask(stack, key["secret"], trick, {})
        assert told.status_code in (400, 403, 404, 405), (trick, told.text)
    only_admin = make(scopes=["admin"])["secret"]
    wait_for(lambda: ask(stack, only_admin, "/keys", method="GET").status_code == 200, 20, "it does not count")
    assert ask(stack, only_admin, "/chat/completions", chat()).status_code == 403
    with connect(
        stack.url.replace("http", "ws") + "/chat/ws", additional_headers={"x-api-key": only_admin}
    ) as socket:
        assert json.loads(socket.recv())["error"]["code"] == "not_allowed"


def test_a_key_that_was_revoked_or_rotated_counts_for_nothing(stack: Stack, make: Any) -> None:
    key = make()
    wait_for(lambda: works(stack, key["secret"]), 20, "a new key does not count")
    rotated = stack.post(f"/keys/{key['id']}/rotate", {}).json()
    assert rotated["id"] == key["id"] and rotated["secret"] != key["secret"]
    wait_for(lambda: not works(stack, key["secret"]), 20, "the secret of before still counts")
    wait_for(lambda: works(stack, rotated["secret"]), 20, "the new secret does not count")
    shown = stack.get("/keys").json()["keys"]
    assert key["id"] in [one["id"] for one in shown]
    assert all("secret" not in one and "sha256" not in one for one in shown)
    gone = http().delete(f"{stack.url}/keys/{key['id']}", headers=stack.headers)
    assert gone.json() == {"id": key["id"], "revoked": True}
    wait_for(lambda: not works(stack, rotated["secret"]), 20, "a revoked key still counts")
    assert http().delete(f"{stack.url}/keys/{key['id']}", headers=stack.headers).status_code == 404


def test_a_socket_is_closed_to_a_key_that_was_revoked_and_each_message_has_a_row(stack: Stack, make: Any) -> None:
    key = make()
    wait_for(lambda: works(stack, key["secret"]), 20, "a new key does not count")
    address = stack.url.replace("http", "ws") + "/chat/ws"
    before = {one["name"]: one["requests"] for one in stack.get("/usage?by=key").json()["rows"]}
    with connect(address, additional_headers={"x-api-key": key["secret"]}) as socket:
        for _ in range(2):
            socket.send(json.dumps(chat(SMALL)))
            while json.loads(socket.recv(timeout=60)).get("type") != "done":
                pass
        http().delete(f"{stack.url}/keys/{key['id']}", headers=stack.headers)
        wait_for(lambda: not works(stack, key["secret"]), 20, "a revoked key still counts")
        socket.send(json.dumps(chat(SMALL)))
        assert json.loads(socket.recv(timeout=60))["error"]["code"] == "invalid_api_key"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401

    def rows() -> int:
        now = {one["name"]: one["requests"] for one in stack.get("/usage?by=key").json()["rows"]}
        return int(now.get(key["id"], 0)) - before.get(key["id"], 0)

    wait_for(lambda: rows() == 2, 60, lambda: f"{rows()} rows of 2 messages")


def test_nobody_locks_everyone_out(stack: Stack) -> None:
    owner = next(one["id"] for one in stack.get("/keys").json()["keys"] if one["name"] == "owner")
    refused = http().delete(f"{stack.url}/keys/{owner}", headers=stack.headers)
    assert refused.status_code == 400
    assert works(stack, stack.key)
