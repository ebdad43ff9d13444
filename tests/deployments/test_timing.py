from __future__ import annotations

import ast
import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletionChunk

from configs.escalation import FallbackRules
from deployments.chunks import ChunkBuilder
from deployments.router.failures import watched
from deployments.timing import together, within

ROOT = Path(__file__).parents[2]
WORD = ChunkBuilder("1", "small").delta(0, content="x")


async def test_what_comes_in_time_is_passed_on_and_what_does_not_is_late() -> None:
    assert await within(asyncio.sleep(0, "here"), 1.0) == "here"
    with pytest.raises(TimeoutError):
        await within(asyncio.sleep(1), 0.01)


async def test_what_came_while_the_process_was_held_up_has_come_in_time() -> None:
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)

    def held_up() -> None:
        there.send(b"hits")
        time.sleep(0.1)

    asyncio.get_running_loop().call_soon(held_up)
    assert await within(reader.readexactly(4), 0.01) == b"hits"
    began = time.monotonic()
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)
    with pytest.raises(TimeoutError):
        await within(reader.readexactly(4), 0.05)
    assert time.monotonic() - began < 10, "once more, and not for ever"
    writer.close()
    there.close()


@pytest.mark.parametrize("turns", range(1, 12))
async def test_a_cancellation_is_heard_whenever_it_comes(turns: int) -> None:
    """Between two tokens too: whoever does not hear of it answers a client that has left to the end."""

    async def words() -> AsyncGenerator[list[ChatCompletionChunk], None]:
        while True:
            await asyncio.sleep(0)
            yield [WORD]

    async def answer() -> None:
        async with aclosing(watched(words(), "small", FallbackRules())) as steps:
            async for _ in steps:
                pass

    task = asyncio.create_task(answer())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=1)
    try:
        assert task.cancelled(), "it went on"
    finally:
        task.cancel()


def test_nobody_waits_in_a_way_that_loses_cancellations() -> None:
    for package in ("deployments", "serve_app"):
        for path in (ROOT / package).rglob("*.py"):
            names = {
                node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
            }
            assert "wait_for" not in names, path


async def test_several_are_waited_for_so_many_at_once_in_order() -> None:
    running, most = 0, 0

    async def double(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (5 - number))
        running -= 1
        return 2 * number

    assert await together([(double, number) for number in range(5)], 2) == [0, 2, 4, 6, 8]
    assert most == 2


async def test_where_one_of_several_fails_the_others_are_stopped() -> None:
    stopped: list[int] = []

    async def one(number: int) -> int:
        if number == 1:
            raise ValueError("no")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(number)
            raise
        return number

    with pytest.raises(ValueError, match="no"):
        await together([(one, number) for number in range(3)], 3)
    assert sorted(stopped) == [0, 2]
