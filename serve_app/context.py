"""The `RequestContext` of an HTTP or WebSocket request: what its headers say beside its body."""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection, Request

from configs.routing import DeviceClass
from deployments.contract import RequestContext
from serve_app.keys import ApiKey

DEVICES = ("server", "macbook", "mobile")


def request_context(connection: HTTPConnection) -> RequestContext:
    """Headers: `x-groupqwen-device` (server, macbook, mobile; unset: the machine of the group that it comes from),
    `x-groupqwen-session`, and `cache-control` (`no-cache` asks anew and stores, `no-store` leaves the cache
    alone)."""
    headers = connection.headers
    key: ApiKey = connection.state.key
    device = headers.get("x-groupqwen-device", "").lower() or connection.state.device
    control = headers.get("cache-control", "").lower()
    return RequestContext(
        request_id=connection.state.request_id,
        key_id=key.id,
        user=headers.get("x-openwebui-user-id"),
        session=headers.get("x-groupqwen-session", "")[:128] or None,
        device=cast(DeviceClass, device) if device in DEVICES else "server",
        cache="bypass" if "no-store" in control else "refresh" if "no-cache" in control else "use",
    )


async def disconnected(request: Request) -> None:
    """Return when the client has gone away. Call it only after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
