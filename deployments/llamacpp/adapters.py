"""The adapters of one llama.cpp engine: each is loaded when it is first asked for, and the one that was unused for
longest makes room for another. Knows nothing of Ray or HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from pathlib import Path

from deployments.adapters.files import weights_of
from deployments.contract import Adapter, adapter_broken, engine_gone, queue_full
from deployments.llamacpp.engine import Engine
from deployments.llamacpp.generation import EngineFailed
from deployments.llamacpp.weights import WeightsError

logger = logging.getLogger("ray.serve.llamacpp")

FORM = "gguf"
"""Of an adapter's exports, the one that is read here."""


class Adapters:
    """Belongs to the event loop; the engine's thread loads and frees. `base`: the variant that they were made for;
    `most`: that stay loaded."""

    def __init__(self, engine: Engine, folder: Path, base: str, most: int) -> None:
        self._engine, self._folder, self._base, self._most = engine, folder, base, most
        self._loaded: OrderedDict[str, int] = OrderedDict()
        """By the key of their weights, the least recently used first: their bytes."""
        self._users: Counter[str] = Counter()
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def using(self, wanted: Adapter) -> AsyncIterator[str]:
        """What the engine knows it by, which stays loaded meanwhile. Raises `ChatError`."""
        key = wanted.key
        self._users[key] += 1  # (From now on nobody lets go of it.)
        try:
            while key not in self._loaded:
                # A load goes on although who has asked leaves: it must not be lost sight of half-way.
                await asyncio.shield(self._coming.get(key) or self._load(wanted))
            self._loaded.move_to_end(key)
            yield key
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]

    async def keep_only(self, keys: Container[str]) -> None:
        """Let go of all others that nobody uses."""
        for key in [key for key in self._loaded if key not in keys and key not in self._users]:
            async with self._one_at_a_time:
                if key not in self._users:
                    await self._free(key)

    def report(self) -> dict[str, float]:
        """Those that are loaded, and about what each takes, MiB."""
        return {key: round(size / 2**20, 2) for key, size in self._loaded.items()}

    def _load(self, wanted: Adapter) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._bring_in(wanted))
        self._coming[wanted.key] = task
        task.add_done_callback(lambda done: self._came(wanted.key, done))
        return task

    def _came(self, key: str, task: asyncio.Task[None]) -> None:
        del self._coming[key]
        if not task.cancelled() and task.exception() is not None:
            logger.warning("%s was not loaded: %s", key, task.exception())

    async def _bring_in(self, wanted: Adapter) -> None:
        path, size = await asyncio.to_thread(weights_of, self._folder, wanted, self._base, FORM)
        async with self._one_at_a_time:
            while len(self._loaded) >= self._most:
                unused = next((key for key in self._loaded if key not in self._users), None)
                if unused is None:
                    raise queue_full(2.0)
                await self._free(unused)
            try:
                await self._engine.do(lambda context: context.load_adapter(wanted.key, path))
            except WeightsError as error:
                raise adapter_broken(wanted.model, str(error)) from error
            except EngineFailed as error:
                raise engine_gone(self._base) from error
            self._loaded[wanted.key] = size

    async def _free(self, key: str) -> None:
        if self._loaded.pop(key, None) is not None:
            await self._engine.do(lambda context: context.unload_adapter(key))
