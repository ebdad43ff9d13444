"""The adapters that a vLLM engine is told of: when one is first asked for, until it is demoted. Which of them are
in memory is vLLM's own to decide (`max_loras`). Pure asyncio."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from deployments.adapters.files import weights_of
from deployments.contract import Adapter, adapter_broken

FORM = "peft"
"""Of an adapter's exports, the one that is read here."""


class Knows(Protocol):
    """An engine that can be told of adapters."""

    @property
    def adapters(self) -> list[str]:
        """The keys of those that it knows."""
        ...

    async def learn(self, key: str, folder: Path) -> None:
        """Raises `ValueError` with its own words."""
        ...

    async def forget(self, key: str) -> None:
        """Let it go."""
        ...


class Adapters:
    """Of one replica. `enabled`: whether its engine was started with a place for them."""

    def __init__(self, folder: Path, base: str, *, enabled: bool) -> None:
        self._folder, self._base, self._enabled = folder, base, enabled
        self._users: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def using(self, engine: Knows, wanted: Adapter) -> AsyncIterator[str]:
        """What the engine knows it by, which it does not forget meanwhile. Raises `ChatError`."""
        if not self._enabled:
            raise adapter_broken(
                wanted.model, f"{self._base} was started without `vllm.enable_lora` (models.yaml)"
            )
        key = wanted.key
        self._users[key] += 1
        try:
            async with self._one_at_a_time:
                if key not in engine.adapters:
                    path, self._sizes[key] = await asyncio.to_thread(
                        weights_of, self._folder, wanted, self._base, FORM
                    )
                    try:
                        await engine.learn(key, path)
                    except ValueError as error:
                        raise adapter_broken(wanted.model, str(error)) from error
            yield key
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]

    def report(self, engine: Knows) -> dict[str, float]:
        """Those that it knows, and about what each takes while it is in memory, MiB."""
        return {key: round(self._sizes.get(key, 0) / 2**20, 2) for key in engine.adapters}

    async def keep_only(self, engine: Knows, keys: Container[str]) -> None:
        """Have it forget all others that nobody uses: it would read one that is used from the disk again."""
        for key in engine.adapters:
            async with self._one_at_a_time:
                if key not in keys and key not in self._users:
                    await engine.forget(key)
