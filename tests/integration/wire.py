"""HTTP and WebSocket by the byte, for what no client library would send: and is what comes back well-formed?"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11

from deployments.timing import within

ANSWER_SECONDS = 30.0
"""A request that is whole is answered in this time; else it hangs."""
QUIET_SECONDS = 0.15
"""No answer to what is no whole request came within this time: none is coming."""


OTHERS_WORDS = (b"Invalid HTTP request received.", b"Path '' not found.")
"""What uvicorn says of headers that HAProxy lets through and it does not; and HAProxy, as Ray has set it up, where
the target is no path."""
UPGRADE = "upgrade"
"""Instead of a method: a WebSocket is asked for."""


@dataclass
class Answer:
    """One response."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def faults(self, method: str, *, whole: bool) -> list[str]:
        """What is wrong with it, whatever was asked."""
        if self.status >= 500:
            return [f"status {self.status}"]
        if b"internal_error" in self.body:
            return ["an internal error in an answer that had begun"]
        if self.status < 400 or method == "HEAD":
            return []
        if not whole and self.body.startswith(b"<html><body><h1>%d " % self.status):
            # HAProxy's own words for what it cannot read as a request.
            return []
        if not whole and self.body.startswith(OTHERS_WORDS):
            return []
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return [f"an error that is not OpenAI's: {self.status} {self.body[:200]!r}"]
        return [] if set(error) == {"message", "type", "code", "param"} else [f"fields {sorted(error)}"]


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""
        self.open = True

    async def send(self, data: bytes) -> None:
        """Raises nothing where the other side has closed: what it said before is still to be read."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def receive(self, seconds: float) -> bytes:
        """What is there; nothing at the end. Raises `TimeoutError`."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await within(self._reader.read(65_536), seconds)
        except ConnectionError:
            return b""

    async def answer(self, method: str, seconds: float) -> Answer | None:
        """The next response, read strictly. None where the connection ends or is silent without one. Raises
        `h11.RemoteProtocolError` for what is no response, `TimeoutError` for one that stays without its end."""
        client = h11.Connection(h11.CLIENT)
        headers = [("host", "a"), *([("upgrade", "websocket")] if method == UPGRADE else [])]
        client.send(h11.Request(method="GET" if method == UPGRADE else method, target="/", headers=headers))
        client.send(h11.EndOfMessage())
        found: Answer | None = None
        begun = False
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await self.receive(ANSWER_SECONDS if begun else seconds)
                except TimeoutError:
                    if begun:
                        raise
                    return None
                self.open &= bool(data)
                if not data and not begun:
                    return None
                begun = True
                client.receive_data(data)
            elif isinstance(event, h11.Response):
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                found = Answer(event.status_code, headers)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    self._rest = client.trailing_data[0]
                    return Answer(101)
            elif isinstance(event, h11.Data):
                assert found is not None
                found.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert found is not None
                self._rest = client.trailing_data[0]
                self.open &= client.their_state is not h11.MUST_CLOSE
                return found
            else:
                return found

    async def frames(self, seconds: float) -> AsyncIterator[tuple[int, bytes]]:
        """A WebSocket's frames (opcode, data), until it is silent so long. Raises `ValueError` for what is none,
        and for an end without a frame that says so."""
        buffer = b""
        while True:
            need, head = 2, 2
            if len(buffer) >= 2:
                if buffer[0] & 0x70 or buffer[1] & 0x80:
                    raise ValueError(f"no frame of a server: {buffer[:20]!r}")
                length = buffer[1] & 0x7F
                head = 2 + {126: 2, 127: 8}.get(length, 0)
                need = head
                if len(buffer) >= head:
                    if length > 125:
                        length = struct.unpack("!H" if head == 4 else "!Q", buffer[2:head])[0]
                    need = head + length
                    if len(buffer) >= need:
                        yield buffer[0] & 0x0F, buffer[head:need]
                        buffer = buffer[need:]
                        continue
            try:
                data = await self.receive(seconds)
            except TimeoutError:
                return
            if not data:
                raise EndedSilently("it ended without a close")
            buffer += data

    def abort(self) -> None:
        """Leave without a word."""
        self._writer.transport.abort()


class EndedSilently(ValueError):
    """A WebSocket's connection ended without a frame that says so."""


@asynccontextmanager
async def wire(host: str, port: int) -> AsyncIterator[Wire]:
    """A connection that is gone afterwards."""
    reader, writer = await within(asyncio.open_connection(host, port), 10)
    connection = Wire(reader, writer)
    try:
        yield connection
    finally:
        connection.abort()
