"""Chat over a WebSocket: requests in, chunks out, one answer at a time, which a message may cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from configs.profile import Limits
from deployments.contract import ChatError, ChatRequest, RequestContext, invalid
from serve_app.answers import AnswerStream
from serve_app.border import no_key
from serve_app.context import request_context
from serve_app.keys import KeyRing

KEY_SECONDS = 10.0
"""How long a socket that came without a key has to send one."""

MAX_CANCEL_CHARS = 256
"""A longer message is no cancel."""

Open = Callable[[ChatRequest, RequestContext], AnswerStream]


async def serve_socket(socket: WebSocket, keys: KeyRing, limits: Limits, open_stream: Open) -> None:
    """Serve one WebSocket until it closes."""
    await socket.accept()
    try:
        if socket.state.key is None and not await _sends_key(socket, keys):
            await socket.send_json(no_key().body())
            await socket.close(4401)
            return
        while True:
            message = await socket.receive_text()
            if _is_cancel(message):
                continue  # It crossed with the end of the answer that it was meant for.
            await _answer(socket, message, limits, open_stream)
    except WebSocketDisconnect:
        return


async def _sends_key(socket: WebSocket, keys: KeyRing) -> bool:
    try:
        message = await asyncio.wait_for(socket.receive_json(), KEY_SECONDS)
    except (TimeoutError, ValueError):
        return False
    secret = message.get("api_key") if isinstance(message, dict) else None
    if not isinstance(secret, str):
        return False
    socket.state.key = keys.find(secret)
    return socket.state.key is not None


async def _answer(socket: WebSocket, message: str, limits: Limits, open_stream: Open) -> None:
    try:
        if len(message) > limits.body_bytes:
            raise invalid("The message is too large.")
        chat = ChatRequest.model_validate_json(message)
        if len(chat.messages) > limits.messages:
            raise invalid(f"messages holds more than {limits.messages} messages", param="messages")
    except ValidationError as error:
        problem = error.errors()[0]
        await socket.send_json(invalid(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}").body())
        return
    except ChatError as error:
        await socket.send_json(error.body())
        return
    context = request_context(socket)
    stream = open_stream(chat, context)
    listening = asyncio.ensure_future(_cancelled(socket))
    sending = asyncio.ensure_future(_send_answer(socket, stream))
    try:
        await asyncio.wait({listening, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            if listening.exception() is None:
                await socket.send_json({"type": "cancelled"})
        if listening.done() and (left := listening.exception()) is not None:
            raise left
        await asyncio.gather(sending, return_exceptions=True)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await stream.close()


async def _cancelled(socket: WebSocket) -> None:
    """Returns when the client asks to stop; raises when it leaves. Anything else has to wait for its turn."""
    while not _is_cancel(await socket.receive_text()):
        await socket.send_json(invalid("One answer at a time: send this again after 'done', or cancel.").body())


def _is_cancel(message: str) -> bool:
    if len(message) > MAX_CANCEL_CHARS:
        return False
    try:
        data = json.loads(message)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("type") == "cancel"


async def _send_answer(socket: WebSocket, stream: AnswerStream) -> None:
    async for sent in stream.frames():
        text = sent.decode()
        if text.startswith("data: {"):
            await socket.send_text(text.removeprefix("data: ").rstrip("\n"))
    await socket.send_json({"type": "done"})
