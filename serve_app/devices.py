"""Which machine of the group a request comes from, by its address."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray

from configs.placement import HEAD, resource
from configs.routing import DeviceClass

logger = logging.getLogger("ray.serve")

CLIENT_HEADER = b"x-groupqwen-client"
"""The client's address, set by HAProxy whatever the client sent (`groupqwen/haproxy.sh`)."""

FRESH_SECONDS = 5.0


class Devices:
    """The addresses of the nodes that have joined. Belongs to one event loop."""

    def __init__(
        self, kinds: Iterable[DeviceClass], nodes: Callable[[], list[Mapping[str, Any]]] = lambda: ray.nodes()
    ) -> None:
        """`kinds`: those that the profile knows. `nodes`: Ray's list of its nodes; may take a while."""
        self._kinds = tuple(kinds)
        self._nodes = nodes
        self._by_address: dict[str, DeviceClass] = {}
        self._asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def at(self, address: str) -> DeviceClass | None:
        """The node that has this address, as it was known at the last request or so: nobody waits for Ray."""
        if not self._kinds or not address:
            return None
        if self._asking is None and time.monotonic() - self._asked > FRESH_SECONDS:
            self._asked = time.monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._refresh())
        return self._by_address.get(address)

    async def _refresh(self) -> None:
        try:
            self._by_address = addresses(await asyncio.to_thread(self._nodes), self._kinds)
        except Exception:  # Ray's control store may be restarting; what was known holds until then.
            logger.exception("the nodes' addresses cannot be asked for")
        finally:
            self._asking = None


def addresses(nodes: Iterable[Mapping[str, Any]], kinds: Iterable[DeviceClass]) -> dict[str, DeviceClass]:
    """Address → kind of the nodes that are alive. The head's own address says nothing: everyone on it has it."""
    alive = [node for node in nodes if node.get("Alive")]
    heads = {node["NodeManagerAddress"] for node in alive if HEAD in node["Resources"]}
    return {
        address: kind
        for kind in kinds
        for node in alive
        if resource(kind) in node["Resources"] and (address := node["NodeManagerAddress"]) not in heads
    }
