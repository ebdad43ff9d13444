"""What is promoted, as the disk says at this moment: every process that serves looks for itself, and so agrees
with all others, and with itself after a restart. Pure asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Mapping
from pathlib import Path

from configs.adapters import AdapterManifest, base_of, read_adapters
from deployments.contract import ChatError, no_such_model

logger = logging.getLogger("ray.serve")


class Registry:
    """The folder of all adapters. A look is one `stat`; only when that says that something has changed the
    manifests are read, in a thread, and whoever has looked waits for them. Belongs to one event loop."""

    def __init__(self, folder: Path, bases: Container[str] | None = None) -> None:
        """`bases`: of all others it knows nothing; None: of all."""
        self._folder, self._bases = folder, bases
        self._seen: int | None = None
        self._reading = asyncio.Lock()
        self.promoted: dict[str, AdapterManifest] = {}
        """By model name, as it was at the last look."""
        self._idle: frozenset[str] = frozenset()

    async def look(self) -> Mapping[str, AdapterManifest]:
        """Those that are promoted now, by model name."""
        if self._changed() != self._seen:
            async with self._reading:
                await self._read()
        return self.promoted

    def missing(self, model: str) -> ChatError:
        """Why nobody answers to an adapter's name."""
        if model in self._idle:
            name = model.rpartition(":")[2]
            return no_such_model(
                f"The adapter {model!r} is not promoted (any more): `groupqwen adapters promote {name}` has it "
                f"answer; {base_of(model)!r} answers without it."
            )
        there = ", ".join(self.promoted) or "none"
        return no_such_model(f"The model {model!r} does not exist here. Adapters that answer: {there}.")

    async def _read(self) -> None:
        # (Stamped before it is read: what changes meanwhile is read again.)
        stamp = self._changed()
        if stamp == self._seen:
            return  # Who waited for the same.
        found = await asyncio.to_thread(lambda: list(read_adapters(self._folder)))
        found = [one for one in found if self._bases is None or one.base in self._bases]
        self.promoted.clear()
        self.promoted.update({one.model: one for one in found if one.promotion is not None})
        self._idle = frozenset(one.model for one in found) - self.promoted.keys()
        self._seen = stamp
        logger.info("adapters that are promoted: %s", ", ".join(self.promoted) or "none")

    def _changed(self) -> int | None:
        """When something in it has changed, nanoseconds; None where there is no such folder."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return None
