"""No name in a request becomes a path: nothing is written or read where a request says."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.integration.conftest import ROOT, SMALL, Stack

MARK = f"marked-{uuid.uuid4().hex}"


def names(stack: Stack) -> list[str]:
    """Paths in many forms: what they hold would be seen, and what is made where they lead carries the mark."""
    there = str(stack.settings.home.root)
    return [
        f"../../../../../../tmp/{MARK}",
        f"/tmp/{MARK}",
        f"{SMALL}/../{MARK}",
        f"..\\..\\{MARK}",
        f"~/{MARK}",
        f"{there}/{MARK}",
        f"{there}/keys.json",
        "/etc/passwd",
        "../../../../../../../../etc/passwd",
        "file:///etc/passwd",
        f"%2e%2e%2f{MARK}",
        f"{MARK}\x00.png",
        f"${{HOME}}/{MARK}",
    ]


def requests_of(stack: Stack, name: str) -> Iterator[httpx.Response]:
    """The name in every field and path that takes one."""
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "model": SMALL}
    header = quote(name)
    yield stack.post("/chat/completions", {**chat, "model": name})
    yield stack.post(
        "/chat/completions",
        {
            **chat,
            "user": name,
            "metadata": {"knowledge": name, "path": name},
            "adapter": name,
            "lora": name,
            "chat_template": name,
            "chat_template_kwargs": {"chat_template": name, "template": name, "path": name},
            "messages": [{"role": "user", "content": "Hi", "name": name, "file": name}],
        },
        **{"x-groupqwen-session": header, "x-groupqwen-device": header, "x-openwebui-user-id": header},
    )
    yield stack.post("/chat/completions", chat, **{"x-request-id": header, "x-groupqwen-preference": header})
    schema = {"type": "json_schema", "json_schema": {"name": name, "schema": {"$ref": name}}}
    yield stack.post("/chat/completions", {**chat, "response_format": schema})
    part = {"type": "image_url", "image_url": {"url": name}}
    yield stack.post("/chat/completions", {**chat, "messages": [{"role": "user", "content": [part]}]})
    yield stack.post("/completions", {"prompt": "Hi", "max_tokens": 1, "model": name})
    yield stack.post("/embeddings", {"input": "Hi", "model": name})
    yield stack.post("/feedback", {"request_id": name, "rating": "up"})
    yield stack.post("/cache/forget", {"ids": [name]})
    yield stack.post("/cache/pin", {"ids": [name]})
    made = stack.post("/keys", {"name": name, "group": name})
    yield made
    if made.status_code == 200:
        yield httpx.delete(f"{stack.url}/keys/{made.json()['id']}", headers=stack.headers)
    inside = quote(name, safe="")
    for path in (f"/models/{inside}", f"/requests/{inside}", f"/keys/{inside}", f"/docs/{inside}", f"/{inside}"):
        yield stack.get(path)
    for path in (f"/models/{inside}/load", f"/models/{inside}/pin", f"/keys/{inside}/rotate"):
        yield stack.post(path, {"pinned": True})
    yield httpx.delete(f"{stack.url}/keys/{inside}", headers=stack.headers)


def test_no_name_in_a_request_is_a_path(stack: Stack) -> None:
    secret = stack.settings.home.keys.read_text()[:200]
    for name in names(stack):
        for response in requests_of(stack, name):
            assert response.status_code < 500, (name, response.request.url, response.text)
            assert "root:x:" not in response.text
            assert secret not in response.text
    roots = {stack.settings.home.root, Path(tempfile.gettempdir()), ROOT}
    made = [path for root in roots for path in root.rglob(f"*{MARK}*")]
    made += [path for root in (Path.home(), *Path.home().parents) for path in root.glob(f"*{MARK}*")]
    assert made == []


@pytest.mark.parametrize(
    "path", ["/../keys.json", "/v1/../../keys.json", "/docs/../../etc/passwd", "//etc/passwd"]
)
def test_no_path_of_a_url_is_one_of_the_machine(stack: Stack, path: str) -> None:
    # As they stand: a client would fold the dots.
    base = httpx.URL(stack.url).copy_with(raw_path=path.encode())
    response = httpx.get(base, headers=stack.headers)
    assert response.status_code == 404, response.text
