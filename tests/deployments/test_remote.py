"""What goes out to an endpoint elsewhere, and what comes back from it: against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from configs.catalog import VariantSpec, load_catalog
from configs.planner import row_of
from configs.profile import ServedVariant
from deployments.chunks import fold
from deployments.contract import ChatError, ChatRequest, CompletionRequest
from deployments.remote.chat import RemoteChat, fields_for

SPEC: dict[str, Any] = {
    "title": "Elsewhere",
    "engine": "remote",
    "remote": {"base_url": "http://127.0.0.1:1/v1", "model": "theirs", "key_variable": "THEIR_KEY"},
    "context": 4096,
    "capabilities": ["chat"],
    "price": {"input": 1, "output": 2, "relative": 3, "source": "a test"},
    "quality": {"prior": 0.5, "source": "a test"},
    "license": "none",
}
REQUEST = ChatRequest(messages=[{"role": "user", "content": "hi"}], temperature=0.5)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def spec(url: str = "http://127.0.0.1:1/v1") -> VariantSpec:
    return VariantSpec.model_validate({**SPEC, "remote": {**SPEC["remote"], "base_url": url}})


@pytest.fixture()
async def serving() -> AsyncIterator[Callable[[Handler], Awaitable[RemoteChat]]]:
    runners: list[web.AppRunner] = []

    async def serve(handler: Handler) -> RemoteChat:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return RemoteChat("elsewhere", spec(f"http://127.0.0.1:{runner.addresses[0][1]}/v1"))

    yield serve
    for runner in runners:
        await runner.cleanup()


def event(content: str | None = None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    chunk = {"id": "theirs", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def saying(*parts: bytes, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    return handler


async def test_an_answer_passes_through_under_our_names(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", "secret")
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.update(body=await request.json(), key=request.headers.get("Authorization"))
        return await saying(
            event("Hel"), b": comment\n\n", event("lo"), event(finish="stop"), b"data: [DONE]\n\n"
        )(request)

    chat = await serving(handler)
    chunks = [chunk async for found in chat.chat(REQUEST, "r1") for chunk in found]
    assert fold(chunks).choices[0].message.content == "Hello"
    assert {(chunk.id, chunk.model) for chunk in chunks} == {("chatcmpl-r1", "elsewhere")}
    assert seen["key"] == "Bearer secret"
    assert (seen["body"]["model"], seen["body"]["stream"], seen["body"]["temperature"]) == ("theirs", True, 0.5)
    await chat.close()


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ((event("a"),), 200, "stream_cut"),
        ((event("a"), b"data: {broken\n\n"), 200, "malformed_chunk"),
        ((b'data: {"choices": 7}\n\n',), 200, "malformed_chunk"),
        ((b"data: [1]\n\n",), 200, "malformed_chunk"),
        ((b'data: {"error": {"message": "no"}}\n\n',), 200, "engine_unavailable"),
        ((b'{"error": {"message": "slow down"}}',), 429, "queue_full"),
        ((b'{"error": {"message": "long", "code": "context_length_exceeded"}}',), 400, "context_length_exceeded"),
        ((b'{"error": {"message": "no", "code": "content_filter"}}',), 400, "content_filter"),
        ((b'{"error": {"message": "bad"}}',), 400, None),
        ((b"<html>",), 500, "engine_unavailable"),
        ((b"",), 401, "engine_unavailable"),
        ((b"",), 302, "engine_unavailable"),
    ],
)
async def test_every_failure_has_its_code(
    serving: Any, parts: tuple[bytes, ...], status: int, code: str | None
) -> None:
    chat = await serving(saying(*parts, status=status))
    with pytest.raises(ChatError) as raised:
        async for _ in chat.chat(REQUEST, "r"):
            pass
    assert raised.value.code == code


async def test_one_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(ChatError) as raised:
        async for _ in RemoteChat("elsewhere", spec()).chat(REQUEST, "r"):
            pass
    assert raised.value.code == "engine_unavailable"


def test_a_raw_prompt_cannot_be_asked_elsewhere() -> None:
    raw = CompletionRequest(prompt="x").as_chat("x")
    with pytest.raises(ChatError, match="no raw prompts"):
        fields_for(raw, spec())
    assert "tool_choice" not in fields_for(REQUEST.model_copy(update={"tool_choice": "auto"}), spec())


def test_a_remote_variant_has_no_weights_and_must_say_where_it_is() -> None:
    row = row_of("elsewhere", spec(), ServedVariant(context=4096))
    assert row.total_mb <= 1
    with pytest.raises(ValueError, match="engine: remote"):
        VariantSpec.model_validate({**SPEC, "remote": None})
    local = load_catalog().variants["smollm2-135m"].model_dump(mode="json")
    with pytest.raises(ValueError, match="engine: remote"):
        VariantSpec.model_validate({**local, "remote": SPEC["remote"]})
    for url in ("file:///etc/passwd", "gopher://x"):
        with pytest.raises(ValueError, match="base_url"):
            spec(url)
