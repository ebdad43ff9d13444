"""Chat over a WebSocket: requests in, chunks out, one answer after the other, which a message may cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from configs.profile import Limits
from deployments.contract import ChatError, ChatRequest, RequestContext, invalid
from deployments.timing import within
from serve_app.answers import AnswerStream
from serve_app.border import no_key, not_for_this
from serve_app.context import request_context
from serve_app.keys import KeyRing

KEY_SECONDS = 10.0
"""How long a socket that came without a key has to send one."""

MAX_WAITING = 8
"""Requests of one socket that may wait for their turn; one more is refused."""

MAX_CANCEL_CHARS = 256
"""A longer message is no cancel."""

T = TypeVar("T")

Check = Callable[[ChatRequest], Coroutine[Any, Any, ChatRequest]]
Open = Callable[[ChatRequest, RequestContext], AnswerStream]


async def serve_socket(socket: WebSocket, keys: KeyRing, limits: Limits, check: Check, open_stream: Open) -> None:
    """Serve one WebSocket until it closes. `check`: what a request is looked at with before it is opened."""
    await socket.accept()
    inbox = Inbox(socket)
    try:
        if socket.state.key is None and not await _sends_key(socket, keys):
            await socket.send_json(no_key().body())
            await socket.close(4401)
            return
        refusal = _refusal(socket, keys)
        if refusal is None:
            inbox.open()
        number = 0
        while refusal is None:
            message = await inbox.next()
            # A socket lives long: its key may have been revoked meanwhile, or changed.
            refusal = _refusal(socket, keys)
            if refusal is None:
                await _answer(socket, message, number, inbox, limits, check, open_stream)
            number += 1
        await socket.send_json(refusal.body())
        await socket.close(4000 + refusal.status)
    except WebSocketDisconnect:
        return
    finally:
        await inbox.close()


class Inbox:
    """The one reader of a socket. Requests wait here for their turn; a cancel goes to the answer that is running,
    and is forgotten where none is: it has crossed with the end of the one that it was meant for."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._reading: asyncio.Task[None] | None = None
        self.cancelled = asyncio.Event()

    def open(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive_text()
            if _is_cancel(message):
                self.cancelled.set()
            elif self._waiting.full():
                await self._socket.send_json(_too_many().body())
            else:
                self._waiting.put_nowait(message)

    async def next(self) -> str:
        """The next request. Raises `WebSocketDisconnect` when the client has left."""
        return await self.unless_gone(self._waiting.get())

    async def unless_gone(self, waited_for: Coroutine[Any, Any, T]) -> T:
        """What is waited for, unless the client leaves before: then `WebSocketDisconnect`."""
        assert self._reading is not None
        task = asyncio.create_task(waited_for)
        try:
            await asyncio.wait({task, self._reading}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._reading.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def _sends_key(socket: WebSocket, keys: KeyRing) -> bool:
    try:
        message = await within(socket.receive_json(), KEY_SECONDS)
    except (TimeoutError, ValueError, RecursionError):
        return False
    secret = message.get("api_key") if isinstance(message, dict) else None
    if not isinstance(secret, str):
        return False
    socket.state.key = keys.find(secret)
    return socket.state.key is not None


def _refusal(socket: WebSocket, keys: KeyRing) -> ChatError | None:
    """Why the socket's key may not chat now, or None; the key is as it is now."""
    key = keys.again(socket.state.key)
    if key is None:
        return no_key()
    socket.state.key = key
    return None if "chat" in key.scopes else not_for_this("chat", key)


async def _answer(
    socket: WebSocket, message: str, number: int, inbox: Inbox, limits: Limits, check: Check, open_stream: Open
) -> None:
    """Answer the socket's so many-th message, counted from 0: each has a row of its own in the Ledger."""
    inbox.cancelled.clear()
    try:
        if len(message) > limits.body_bytes:
            raise invalid("The message is too large.")
        # Whatever it says: on a socket every answer streams.
        chat = ChatRequest.model_validate_json(message).model_copy(update={"stream": True})
        chat = await inbox.unless_gone(check(chat))
        context = request_context(socket).numbered(number)
    except ValidationError as error:
        problem = error.errors()[0]
        await socket.send_json(invalid(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}").body())
        return
    except ChatError as error:
        await socket.send_json(error.body())
        return
    stream = open_stream(chat, context)
    try:
        if await inbox.unless_gone(_send_until(socket, stream, inbox.cancelled)):
            await socket.send_json({"type": "done"})
        else:
            await socket.send_json({"type": "cancelled"})
    finally:
        await stream.close()


async def _send_until(socket: WebSocket, stream: AnswerStream, cancelled: asyncio.Event) -> bool:
    """Send the answer. False where it was cancelled before its end."""
    sending = asyncio.create_task(_send_answer(socket, stream))
    stopping = asyncio.create_task(cancelled.wait())
    try:
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
            return True
        return False
    finally:
        for task in (sending, stopping):
            task.cancel()
        await asyncio.gather(sending, stopping, return_exceptions=True)


async def _send_answer(socket: WebSocket, stream: AnswerStream) -> None:
    async for sent in stream.frames():
        text = sent.decode()
        if text.startswith("data: {"):
            await socket.send_text(text.removeprefix("data: ").rstrip("\n"))


def _too_many() -> ChatError:
    return ChatError(
        f"{MAX_WAITING} requests of this socket wait for their turn already.",
        status=429,
        kind="rate_limit_error",
        code="queue_full",
    )


def _is_cancel(message: str) -> bool:
    if len(message) > MAX_CANCEL_CHARS:
        return False
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("type") == "cancel"
