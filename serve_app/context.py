"""The `RequestContext` of an HTTP or WebSocket request: what its headers say beside its body."""

from __future__ import annotations

import math
from typing import cast

from starlette.requests import HTTPConnection, Request

from configs.routing import PREFERENCES, DeviceClass, Preference
from deployments.contract import OWN, RequestContext, invalid
from serve_app.keys import ApiKey

DEVICES = ("server", "macbook", "mobile")


def request_context(connection: HTTPConnection) -> RequestContext:
    """Headers: `x-groupqwen-device` (server, macbook, mobile; unset: the machine of the group that it comes from),
    `x-groupqwen-session`, `x-groupqwen-preference` (economy, balanced, best), `x-groupqwen-max-cost` (US dollars
    of the answer), `x-groupqwen-begin-within` (seconds until its first token; what cannot begin by then is
    refused), `x-groupqwen-remote: never` (nothing leaves the group's own machines), and `cache-control`
    (`no-cache` asks anew and stores, `no-store` leaves the cache alone)."""
    headers = connection.headers
    key: ApiKey = connection.state.key
    device = headers.get("x-groupqwen-device", "").lower() or connection.state.device
    control = headers.get("cache-control", "").lower()
    return RequestContext(
        request_id=connection.state.request_id,
        key_id=key.id,
        group=_group(key),
        query_text=key.query_text,
        user=headers.get("x-openwebui-user-id"),
        session=headers.get("x-groupqwen-session", "")[:128] or None,
        device=cast(DeviceClass, device) if device in DEVICES else "server",
        preference=_preference(headers.get("x-groupqwen-preference", "")) or _preference(key.preference or ""),
        max_cost_usd=_dollars(headers.get("x-groupqwen-max-cost")),
        begin_within=_seconds(headers.get("x-groupqwen-begin-within")),
        variants=key.variants,
        remote=key.remote and headers.get("x-groupqwen-remote", "").strip().lower() != "never",
        cache="bypass" if "no-store" in control else "refresh" if "no-cache" in control else "use",
    )


def asker(request: Request) -> tuple[str, str | None]:
    """Whose entries of the cache are meant: the key's id, and its group, or that it has a cache of its own."""
    key: ApiKey = request.state.key
    return key.id, _group(key)


def _group(key: ApiKey) -> str | None:
    return OWN if key.own_cache else key.group


def _preference(name: str) -> Preference | None:
    """One that is unknown is refused: who asks for thrift must not get the dearest."""
    wanted = name.strip().lower()
    if wanted and wanted not in PREFERENCES:
        raise invalid(
            f"x-groupqwen-preference is {wanted[:40]!r}; there are {', '.join(PREFERENCES)}",
            param="x-groupqwen-preference",
        )
    return next((known for known in PREFERENCES if known == wanted), None)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    value = _number(text)
    if not value > 0:
        raise invalid("x-groupqwen-begin-within must be a number of seconds", param="x-groupqwen-begin-within")
    return value


def _number(text: str) -> float:
    """A finite one, or none at all."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _dollars(text: str | None) -> float | None:
    if text is None:
        return None
    value = _number(text)
    if not value >= 0:
        raise invalid("x-groupqwen-max-cost must be a number of US dollars", param="x-groupqwen-max-cost")
    return value


async def disconnected(request: Request) -> None:
    """Return when the client has gone away. Call it only after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
