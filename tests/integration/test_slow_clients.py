"""Clients that take their time for ever: with headers, with bodies, with reading, with keys. Each is sent away in
the time that the profile gives, holds nothing afterwards, and keeps nobody else from an answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from deployments.timing import within
from tests.integration.conftest import MIDDLE, NO_END, ONE_OF_THREE, SMALL, Stack, wait_for
from tests.integration.hostile.frames import HANDSHAKE, frame
from tests.integration.test_fuzz import FILES_SLACK

EACH = 20
"""Clients of a kind that costs little; of those that a variant works for there are two."""
PATIENCE = 90.0
"""Seconds after which a client counts as held for ever: more than every limit of this profile, and of uvicorn's
pings."""
LONG = {
    "model": SMALL,
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "stream": True,
    "logprobs": True,
    "top_logprobs": 20,
    "logit_bias": NO_END,
    "max_tokens": 1500,
}
"""It takes longer than a WebSocket may be silent."""


@pytest.fixture(scope="module")
def impatient(stack: Stack) -> Stack:
    """The stack with a profile that waits six seconds for bodies and for readers."""
    stack.use(ONE_OF_THREE)
    for variant in (SMALL, MIDDLE):
        assert stack.ask("Hi", model=variant, max_tokens=1).status_code == 200
    return stack


class Slow:
    """Clients of one endpoint, by the byte."""

    def __init__(self, stack: Stack) -> None:
        address = urlsplit(stack.url)
        self._address = str(address.hostname), address.port or 80
        self._key = b"authorization: Bearer " + stack.key.encode() + b"\r\n"

    async def _until_the_end(self, first: bytes, then: bytes = b"") -> bytes:
        """What comes until the other side closes, while a byte of `then` follows every second."""
        reader, writer = await asyncio.open_connection(*self._address)
        writer.write(first)

        async def dribble() -> None:
            with suppress(ConnectionError):
                while then:
                    await asyncio.sleep(1)
                    writer.write(then)
                    await writer.drain()

        dribbling = asyncio.create_task(dribble())
        said = b""
        try:
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionError):
                    while data := await reader.read(65_536):
                        said += data
            return said
        finally:
            dribbling.cancel()
            writer.close()

    async def never_ends_its_headers(self) -> None:
        said = await self._until_the_end(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n" + self._key + b"x: ", b"a"
        )
        assert said.startswith(b"HTTP/1.1 408 "), said[:200]

    async def never_ends_its_body(self) -> None:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n" + self._key + b"\r\n"
        said = await self._until_the_end(head, b" ")
        assert said.startswith(b"HTTP/1.1 408 "), said[:200]
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"

    async def never_says_its_key(self) -> None:
        said = await self._until_the_end(HANDSHAKE % b"")
        assert b"invalid_api_key" in said, said[:400]

    async def never_answers_a_ping(self) -> None:
        said = await self._until_the_end(HANDSHAKE % self._key)
        assert said.startswith(b"HTTP/1.1 101 "), said[:200]

    async def never_reads(self, ask: bytes, free: asyncio.Event) -> bytes:
        """Ask, and take nothing until the slot is free; then what is there, to the connection's end."""
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, self._address)
            await loop.sock_sendall(sock, ask)
            await within(free.wait(), PATIENCE)
            said = b""
            with suppress(ConnectionError):
                while data := await within(loop.sock_recv(sock, 65_536), PATIENCE):
                    said += data
        assert b"logprobs" in said, said[:400]
        return said

    async def never_reads_a_stream(self, free: asyncio.Event) -> None:
        """The machine's buffers take some megabytes for it, so a shorter answer than that comes to its end; of a
        longer one `send_seconds` and HAProxy's own time are the bounds (test_border, test_haproxy)."""
        body = json.dumps(LONG | {"max_tokens": 150}).encode()
        await self.never_reads(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close"
            b"\r\ncache-control: no-store\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), self._key, body),
            free,
        )

    async def never_reads_a_socket(self, free: asyncio.Event) -> None:
        """Who does not read sees no ping either, and is cut off in the middle."""
        handshake = HANDSHAKE % (self._key + b"cache-control: no-store\r\n")
        said = await self.never_reads(handshake + frame(1, json.dumps(LONG).encode()), free)
        assert b'"done"' not in said, (len(said), said[-400:])


async def well_behaved(stack: Stack, done: asyncio.Event) -> int:
    """Ask again and again until `done`; how many answers there were."""
    answers = 0
    while not done.is_set():
        answer = await asyncio.to_thread(stack.ask, "And you?", model=MIDDLE, max_tokens=2)
        assert answer.status_code == 200, answer.text
        answers += 1
        await asyncio.sleep(0.5)
    return answers


def free_again(stack: Stack) -> None:
    """Return when those that never read hold no slot any more."""

    def held() -> int:
        return int(stack.status(SMALL)["active"])

    wait_for(lambda: held() == 4, PATIENCE, "those that never read are not there")
    wait_for(lambda: held() == 0, PATIENCE, "those that never read hold their slots")


async def all_at_once(stack: Stack) -> tuple[int, list[Any]]:
    """The answers of the well-behaved client, and what came of the others."""
    slow, free, gone = Slow(stack), asyncio.Event(), asyncio.Event()
    clients: list[Coroutine[Any, Any, None]] = []
    for _ in range(EACH):
        clients += [slow.never_ends_its_headers(), slow.never_ends_its_body()]
        clients += [slow.never_says_its_key(), slow.never_answers_a_ping()]
    for _ in range(2):
        clients += [slow.never_reads_a_stream(free), slow.never_reads_a_socket(free)]
    waiting = [asyncio.create_task(client) for client in clients]
    asking = asyncio.create_task(well_behaved(stack, gone))
    await asyncio.to_thread(free_again, stack)
    free.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    gone.set()
    return await asking, results


def test_none_of_them_is_held_for_ever_and_others_are_answered(impatient: Stack) -> None:
    stack = impatient
    gateway = stack.replica("Gateway")
    files = gateway.num_fds()
    answers, results = asyncio.run(all_at_once(stack))
    assert [result for result in results if result is not None] == []
    assert answers > 0
    assert stack.replica("Gateway").pid == gateway.pid
    wait_for(lambda: gateway.num_fds() <= files + FILES_SLACK, 60, "the Gateway keeps their connections")
    assert stack.status(SMALL)["active"] == 0
