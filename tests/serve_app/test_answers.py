from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatError, RequestContext, engine_gone, queue_full
from deployments.router.decision import Routed, RouteDecision
from serve_app import answers
from serve_app.answers import DONE, KEEP_ALIVE, AnswerStream, Item

BUILDER = ChunkBuilder("r", "qwen3-8b")
ROUTED = Routed(RouteDecision("qwen3-8b", "simple query", "auto", "server"), "miss", 0.4)
CHUNKS = [
    BUILDER.delta(0, role="assistant", content=""),
    BUILDER.delta(0, content="Grüße "),
    BUILDER.delta(0, content="🙂"),
    BUILDER.delta(0, finish_reason="stop"),
    BUILDER.usage(token_usage(5, 2)),
]


class Items:
    """A routed answer; numbers are pauses in seconds, exceptions are raised. Knows whether it was closed."""

    def __init__(self, *script: Any) -> None:
        self.script = script
        self.closed = False

    async def run(self) -> AsyncIterator[Item]:
        try:
            for step in self.script:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed = True


def open_stream(
    items: Items,
    *,
    include_usage: bool = False,
    keep_alive: float = 5,
    seconds: float = 30,
    on_error: Callable[[ChatError], None] = lambda _: None,
) -> AnswerStream:
    return AnswerStream(
        items.run(),
        RequestContext("req-1"),
        include_usage=include_usage,
        keep_alive=keep_alive,
        deadline=time.monotonic() + seconds,
        on_error=on_error,
    )


async def frames(stream: AnswerStream) -> list[bytes]:
    await stream.start()
    return [frame async for frame in stream.frames()]


def read(frame: bytes) -> Any:
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    assert frame.count(b"\n") == 2
    return json.loads(frame[6:])


@pytest.mark.parametrize("include_usage", [False, True])
async def test_chunks_become_events_and_the_last_one_carries_the_metadata(include_usage: bool) -> None:
    items = Items(ROUTED, *CHUNKS)
    *events, done = await frames(open_stream(items, include_usage=include_usage))
    assert done == DONE
    data = [read(event) for event in events]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in data if one["choices"]) == "Grüße 🙂"
    assert len(data) == (5 if include_usage else 4)
    assert [bool(one.get("usage")) for one in data] == [False] * 4 + [True] * include_usage
    assert [("metadata" in one) for one in data] == [False] * (len(data) - 1) + [True]
    assert data[3]["choices"][0]["finish_reason"] == "stop"
    about = data[-1]["metadata"]
    assert (about["request_id"], about["variant"], about["cache"], about["cache_hit"]) == (
        "req-1",
        "qwen3-8b",
        "miss",
        False,
    )
    assert about["route"]["reason"] == "simple query"
    assert items.closed


async def test_of_several_choices_only_the_very_last_event_has_the_metadata() -> None:
    both = [
        BUILDER.delta(0, finish_reason="stop"),
        BUILDER.delta(1, content="b"),
        BUILDER.delta(1, finish_reason="length"),
    ]
    *events, _ = await frames(open_stream(Items(ROUTED, BUILDER.delta(0, content="a"), *both, CHUNKS[-1])))
    data = [read(event) for event in events]
    assert [(one["choices"][0]["index"], "metadata" in one) for one in data] == [
        (0, False),
        (0, False),
        (1, False),
        (1, True),
    ]


async def test_a_silent_stream_is_kept_alive_and_nothing_is_lost() -> None:
    script = [ROUTED, CHUNKS[0], CHUNKS[1], 0.35, *CHUNKS[2:]]
    got = await frames(open_stream(Items(*script), keep_alive=0.1))
    assert 1 <= got.count(KEEP_ALIVE) <= 4
    told = [read(frame) for frame in got if frame not in (KEEP_ALIVE, DONE)]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in told) == "Grüße 🙂"
    assert got[-1] == DONE


async def test_start_waits_for_the_first_chunk_but_no_longer_than_a_keep_alive() -> None:
    stream = open_stream(Items(ROUTED, 0.05, *CHUNKS))
    await stream.start()
    assert stream.routed is ROUTED
    assert answers.headers(stream.routed)["x-groupqwen-variant"] == "qwen3-8b"
    assert len([frame async for frame in stream.frames()]) == 5

    slow = open_stream(Items(ROUTED, 30.0, *CHUNKS), keep_alive=0.1)
    started = time.monotonic()
    await slow.start()
    assert time.monotonic() - started < 2
    await slow.close()


async def test_a_refusal_before_the_first_chunk_has_its_status() -> None:
    items = Items(ROUTED, queue_full(2.0))
    stream = open_stream(items)
    with pytest.raises(ChatError) as raised:
        await stream.start()
    assert raised.value.status == 429
    assert items.closed


async def test_a_failure_amid_the_stream_is_an_event_and_not_a_done() -> None:
    told: list[ChatError] = []
    items = Items(ROUTED, *CHUNKS[:2], engine_gone("qwen3-8b"))
    *events, last = await frames(open_stream(items, on_error=told.append))
    assert read(last) == told[0].body()
    assert read(last)["error"]["code"] == "engine_unavailable"
    assert [read(event)["choices"][0]["delta"].get("content") for event in events] == ["", "Grüße "]
    assert items.closed


async def test_a_fault_of_our_own_amid_the_stream_is_an_event_too() -> None:
    *_, last = await frames(open_stream(Items(ROUTED, *CHUNKS[:2], RuntimeError("a secret detail"))))
    error = read(last)["error"]
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    "script",
    [[ROUTED, CHUNKS[0], 30.0], [30.0], [ROUTED, *([CHUNKS[1], 0.01] * 3000)]],
    ids=["stuck", "unrouted", "slow"],
)
async def test_an_answer_ends_with_a_timeout_event_at_its_deadline(script: list[Any]) -> None:
    items = Items(*script)
    started = time.monotonic()
    stream = open_stream(items, keep_alive=0.05, seconds=0.3)
    got = await frames(stream)
    assert time.monotonic() - started < 5
    assert read(got[-1])["error"]["code"] == "request_timeout"
    assert DONE not in got
    assert items.closed


async def test_a_client_that_leaves_frees_the_answers_place() -> None:
    items = Items(ROUTED, CHUNKS[0], CHUNKS[1], 30.0, *CHUNKS[2:])
    stream = open_stream(items, keep_alive=0.05)
    await stream.start()
    running = stream.frames()
    assert read(await anext(running))
    await running.aclose()  # type: ignore[attr-defined]
    assert items.closed


async def test_events_can_be_converted_or_left_out() -> None:
    items = Items(ROUTED, *CHUNKS)
    stream = AnswerStream(
        items.run(),
        RequestContext("r"),
        include_usage=False,
        keep_alive=5,
        deadline=time.monotonic() + 30,
        convert=lambda chunk: {"said": chunk.choices[0].delta.content} if chunk.choices[0].delta.content else None,
    )
    data = [read(frame) for frame in await frames(stream) if frame != DONE]
    assert data == [{"said": "Grüße "}, {"said": "🙂"}]


def test_a_frame_holds_any_text() -> None:
    assert read(answers.frame({"a": "x\n\ndata: y\r é"})) == {"a": "x\n\ndata: y\r é"}
    assert json.loads(answers.frame({"a": "\ud83d"})[6:]) == {"a": "?"}


def test_a_body_is_the_folded_answer_with_its_metadata() -> None:
    body = answers.body(CHUNKS, ROUTED, RequestContext("req-1", received=time.time() - 1))
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Grüße 🙂"} | {
        key: None for key in body["choices"][0]["message"] if key not in ("role", "content")
    }
    assert body["object"] == "chat.completion"
    assert body["usage"]["total_tokens"] == 7
    assert body["metadata"]["variant"] == "qwen3-8b"
    assert body["metadata"]["latency_ms"] >= 1000
    json.dumps(body)
    assert "variant" not in answers.metadata(None, RequestContext("r"))
    assert answers.headers(None) == {}
