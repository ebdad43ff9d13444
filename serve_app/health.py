"""Whether a question would be answered, and how each part does, with the last thing that went wrong with it."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from deployments.residency.machine import State
from deployments.timing import within
from serve_app.parts import GONE
from serve_app.schemas import Health

PART_SECONDS = 2.0
STATES = frozenset(State)
"""What a variant that is well may be; `unavailable` is none of them."""
AWAY = "away"
"""One on a machine that is not there now: all is well all the same."""


class Conditions:
    """Of the parts that one Gateway asks."""

    def __init__(self, **parts: DeploymentHandle | None) -> None:
        self._parts = {name: handle for name, handle in parts.items() if handle is not None}

    async def look(self, *, draining: bool) -> Health:
        """All of them at once, each within two seconds."""
        told = await asyncio.gather(*(_asked(handle.health.remote()) for handle in self._parts.values()))
        parts: dict[str, Any] = dict(zip(self._parts, told, strict=True))
        variants: dict[str, str] = parts["router"].pop("variants", {})
        classifier = parts["router"].pop("classifier", None)
        if classifier is not None:
            parts["classifier"] = classifier
        able = any(state in STATES for state in variants.values())
        ready = able and not draining
        well = (
            ready
            and all(part["ok"] for part in parts.values())
            and all(state in STATES | {AWAY} for state in variants.values())
        )
        return Health(
            status="ok" if well else "draining" if able and draining else "degraded" if ready else "down",
            live=True,
            ready=ready,
            parts={**parts, "variants": variants},
        )


async def _asked(response: Any) -> dict[str, Any]:
    try:
        said: dict[str, Any] = await within(response, PART_SECONDS)
        return said
    except (TimeoutError, RayTaskError, *GONE) as error:
        return {"ok": False, "error": type(error).__name__}
