"""What every HTTP request meets first: its id, its key, its size. Pure ASGI, before any parsing.

In this order, because each step costs more than the one before it and needs less trust after it.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi.security import HTTPBearer
from ray.serve.context import _get_serve_request_context
from starlette.requests import HTTPConnection

from deployments.contract import ChatError, invalid, not_allowed
from deployments.ledger.opinions import audit_row
from deployments.timing import within
from serve_app.devices import CLIENT_HEADER, Devices
from serve_app.keys import ApiKey, KeyRing, KeyScope
from serve_app.nesting import check_nesting

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json", "/v1/health", "/"})
"""What anyone may see. `/v1/health` says more to who has a key."""


ADMIN_PATHS = re.compile(
    r"/v1/(?:(?:keys|adapters)(?:/.*)?|cache/clear|rollout|audit|examples|drain|metrics"
    r"|models/.+/(?:load|unload|pin))/?",
    re.DOTALL,
)
"""What touches others than the one who asks."""

FINETUNE_PATHS = re.compile(r"/v1/(?:finetune|fine_tuning|files)(?:/.*)?", re.DOTALL)
UPLOADS = "/v1/files"
"""Where a body may be large: it is not read here, but counted on its way to the disk."""


def wanted_scope(path: str) -> KeyScope | None:
    """What a key must be for; None where none is needed."""
    if path in OPEN_PATHS:
        return None
    if FINETUNE_PATHS.fullmatch(path.strip()):
        return "finetune"
    return "admin" if ADMIN_PATHS.fullmatch(path.strip()) else "chat"


def may(key: ApiKey, wanted: KeyScope) -> bool:
    """Whether a key is for this. Who keeps everyone's jobs may have some."""
    return wanted in key.scopes or (wanted == "finetune" and "admin" in key.scopes)


FORM_BYTES = 64 * 2**10
"""What a form has around its file, at most."""

ACT_CHARS = 300
"""Of a path, that are written down."""

logger = logging.getLogger("ray.serve")


@dataclass
class Rules:
    """What the border enforces. One for the process, because Serve builds the middleware before it
    builds the Gateway, which knows the profile."""

    keys: KeyRing
    body_bytes: int
    devices: Devices
    body_seconds: float = 60.0
    send_seconds: float = 60.0
    keep: Callable[[dict[str, Any]], None] = lambda row: None
    """What takes a row for the Ledger."""
    json_depth: int = 64
    file_bytes: int = 512 * 2**20
    upload_seconds: float = 1800.0


_rules: Rules | None = None


def enforce(rules: Rules) -> None:
    """Set the rules; until then the border lets nothing in."""
    global _rules
    _rules = rules


class Border:
    """Wraps the application. `scope["state"]["key"]` is the caller's `ApiKey`, or None on open paths; `device` the
    machine of the group that it calls from, or None."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        assert _rules is not None, "the border has no rules yet"
        # Serve's own id, which its logs and the response header `x-request-id` carry too. HAProxy takes away
        # one that a client sends: it is the ledger's primary key, which nobody outside may choose.
        identity = _get_serve_request_context().request_id or secrets.token_hex(16)
        key = _rules.keys.find(bearer(scope))
        scope.setdefault("state", {})
        device = _rules.devices.at(_header(scope, CLIENT_HEADER))
        scope["state"].update(key=key, request_id=identity, device=device)
        if scope["type"] == "websocket":
            await self._app(scope, receive, _taken_in_time(send, _rules.send_seconds))
            return

        try:
            if not scope["path"].isprintable():
                # (A route is found though a line's end follows its name, which no comparison here would see.)
                raise invalid("The path holds a character that is none of a path's.")
            if key is None and scope["path"] not in OPEN_PATHS:
                raise no_key()
            wanted = wanted_scope(scope["path"])
            if key is not None and wanted is not None and not may(key, wanted):
                raise not_for_this(wanted, key)
            if is_upload(scope):
                receive = _counted(scope, receive, _rules)
            else:
                body = await _read(scope, receive, _rules)
                check_nesting(body, _rules.json_depth)
                receive = _replay(body, receive)
        except ChatError as error:
            await _refuse(error, send)
            return
        send = _taken_in_time(send, _rules.send_seconds)
        if wanted in ("admin", "finetune") and scope["method"] not in ("GET", "HEAD"):
            assert key is not None
            send = _written_down(key, f"{scope['method']} {scope['path']}", _rules.keep, send)
        await self._app(scope, receive, send)


def is_upload(scope: Scope) -> bool:
    """Whether its body is a file's."""
    return bool(scope.get("method") == "POST" and scope["path"].rstrip("/") == UPLOADS)


def _counted(scope: Scope, receive: Receive, rules: Rules) -> Receive:
    """A body as it comes: a 413 as soon as it is known to be too large, a 408 where nothing comes any more, or not
    all of it in time. Raised where it is read."""
    most, until = rules.file_bytes + FORM_BYTES, time.monotonic() + rules.upload_seconds
    declared = _header(scope, b"content-length")
    if declared.isdigit() and int(declared) > most:
        raise too_large(rules.file_bytes)
    size, whole = 0, False

    async def counted() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()
        patience = min(rules.body_seconds, max(0.0, until - time.monotonic()))
        try:
            message = await within(receive(), patience)
        except TimeoutError:
            raise too_slow(f"Of the body nothing more came within {patience:g} s.") from None
        size += len(message.get("body", b""))
        if size > most:
            raise too_large(rules.file_bytes)
        whole = not message.get("more_body", False)
        return message

    return counted


def _written_down(key: ApiKey, act: str, keep: Callable[[dict[str, Any]], None], send: Send) -> Send:
    """What touches others leaves a row, once it is known what came of it."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            try:
                keep(audit_row(key.id, act[:ACT_CHARS], message["status"]))
            except OSError:
                # The act is done; what can be said of it goes to the log.
                logger.exception("the journal took no row: %s by %s", act[:ACT_CHARS], key.id)
        await send(message)

    return told


def _taken_in_time(send: Send, seconds: float) -> Send:
    """A client that does not read holds a slot no longer than this."""

    async def patient(message: Message) -> None:
        try:
            await within(send(message), seconds)
        except TimeoutError:
            raise ConnectionError(f"the client has taken nothing for {seconds:g} s") from None

    return patient


async def _read(scope: Scope, receive: Receive, rules: Rules) -> bytes:
    """The whole body, or a 413 as soon as it is known to be too large, or a 408."""
    declared = _header(scope, b"content-length")
    if declared.isdigit() and int(declared) > rules.body_bytes:
        raise too_large(rules.body_bytes)
    try:
        return await within(_whole(receive, rules.body_bytes), rules.body_seconds)
    except TimeoutError:
        raise too_slow(f"The body was not there within {rules.body_seconds:g} s.") from None


async def _whole(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise invalid("The connection closed before the body was complete.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


class KeyScheme(HTTPBearer):
    """Tells the OpenAPI document that a key is needed. The border itself has looked at it by then."""

    async def __call__(self, connection: HTTPConnection) -> None:
        return None


def bearer(scope: Scope) -> str:
    """The key in `Authorization: Bearer …` or `x-api-key`, or an empty string."""
    authorization = _header(scope, b"authorization")
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return _header(scope, b"x-api-key").strip()


def no_key() -> ChatError:
    """A 401."""
    return ChatError(
        "No valid API key. Send it as 'Authorization: Bearer gq-…'; `groupqwen status` shows yours.",
        status=401,
        kind="authentication_error",
        code="invalid_api_key",
    )


def not_for_this(wanted: KeyScope, key: ApiKey) -> ChatError:
    """A 403."""
    return not_allowed(
        f"This needs a key with the scope {wanted!r}; this one has: {', '.join(key.scopes) or 'none'}."
    )


def too_slow(message: str) -> ChatError:
    """A 408."""
    return ChatError(message, status=408, kind="invalid_request_error", code="request_timeout")


def too_large(limit: int) -> ChatError:
    """A 413."""
    return ChatError(
        f"The request body is larger than {limit} bytes.",
        status=413,
        kind="invalid_request_error",
        code="request_too_large",
    )


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand the body over once; after that, the connection's own messages (a disconnect)."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


async def _refuse(error: ChatError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
