"""A variant's side of residency: its gate, and Residency's words to it. Every engine's deployment is one.

It is in memory from the start (`keep: always`), or its gate is closed until Residency has it brought in.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from configs.profile import ServedVariant
from deployments.contract import not_ready, queue_full
from deployments.residency.gate import Gate, NotReady


class Resident(ABC):
    """What Residency may ask of a variant. `_bring_in` and `_send_out` are the engine's."""

    def reside(
        self, name: str, served: ServedVariant, wake_seconds: float, ask: Callable[[], None] | None
    ) -> None:
        """Call it first, before anything is in memory. `ask` has this variant brought in."""
        self._name = name
        self._wake_seconds = wake_seconds
        self._ask = ask or (lambda: None)
        self._gate = Gate()
        self._most_waiting = served.parallel + served.max_queue
        self._state = "absent"
        self._coming: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @abstractmethod
    async def _bring_in(self) -> None:
        """Load the model, or wake it. The event loop stays free meanwhile."""

    @abstractmethod
    async def _send_out(self, asleep: bool) -> None:
        """Free the memory; `asleep`: keep what brings it back sooner."""

    @abstractmethod
    def _in_flight(self) -> dict[str, Any]:
        """What the engine says of itself: `active`, `waiting` (requests), tokens so far, `memory_mb`."""

    def is_in(self) -> None:
        """It is in memory, and answers."""
        self._state = "awake"
        self._gate.open()

    @asynccontextmanager
    async def _passage(self) -> AsyncIterator[None]:
        """Inside while the variant is awake. Raises a 503 `ChatError` where it does not come in time, a 429 where
        too many wait already."""
        if not self._gate.is_open and self._gate.waiting >= self._most_waiting:
            raise queue_full(self._wake_seconds)
        try:
            async with self._gate.passage(self._wake_seconds, self._ask):
                yield
        except NotReady as error:
            raise not_ready(self._name, str(error)) from error

    async def load(self) -> None:
        """Residency's word: the memory is yours. Returns when the model answers.

        Goes on although the caller dies meanwhile: a load cannot be stopped half-way, and what it has loaded
        must not be lost sight of.
        """
        async with self._lock:
            if self._state != "awake":
                if self._coming is None:
                    self._coming = asyncio.create_task(self._bring_in())
                    self._coming.add_done_callback(self._came)
                await asyncio.shield(self._coming)
            self._gate.open()

    def _came(self, coming: asyncio.Task[None]) -> None:
        self._coming = None
        if not coming.cancelled() and coming.exception() is None:
            self.is_in()

    async def unload(self, asleep: bool = False) -> None:
        """Residency's word: leave. Takes nothing new, and returns when the last answer is out and the memory
        is free. Where the caller dies meanwhile, this stays, open as before."""
        async with self._lock:
            if self._coming is not None:
                await asyncio.shield(self._coming)
            try:
                await self._gate.drain()
            except asyncio.CancelledError:
                if self._state == "awake":
                    self._gate.open()
                raise
            await asyncio.shield(asyncio.create_task(self._leave(asleep)))

    async def _leave(self, asleep: bool) -> None:
        if self._state == "absent":
            return
        await self._send_out(asleep)
        self._state = "asleep" if asleep else "absent"

    async def fail(self, reason: str) -> None:
        """Residency's word: it cannot be loaded. Who waits is told."""
        self._gate.fail(reason)

    async def status(self) -> dict[str, Any]:
        """Live gauges: state, requests, tokens so far, resident memory (MiB)."""
        draining = self._state == "awake" and not self._gate.is_open
        engine = self._in_flight()
        return {
            "state": "loading" if self._coming is not None else "draining" if draining else self._state,
            **engine,
            "waiting": engine["waiting"] + self._gate.waiting,
            "at_the_gate": self._gate.waiting,
            "asked": self._gate.passed + self._gate.waiting,
        }
