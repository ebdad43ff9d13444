"""Who may use a variant now: everyone while it is awake, nobody while it is not. Pure asyncio.

The variant's own process keeps the gate, so that a request to a variant that is awake asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from deployments.timing import within

GRACE_SECONDS = 0.05
"""Who leaves sooner (the cache had the answer after all) has asked for nothing."""

REMIND_SECONDS = 2.0
"""A waiter asks again this often: whoever brings variants in may have died and forgotten."""


class NotReady(Exception):
    """The variant did not come in time, or could not be loaded."""


class Gate:
    """Counts who is inside and who waits. Belongs to one event loop."""

    def __init__(self) -> None:
        self.inside = 0
        self.passed = 0
        self._open = False
        self._failures = 0
        self._reason = ""
        self._waiting: set[asyncio.Future[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_open(self) -> bool:
        return self._open

    def open(self) -> None:
        """The variant is awake."""
        self._open = True
        self._wake()

    def fail(self, reason: str) -> None:
        """It cannot be loaded: who waits is told."""
        self._failures += 1
        self._reason = reason
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def drain(self) -> None:
        """Let nobody in any more, and return when the last one is out."""
        self._open = False
        await self._empty.wait()

    @asynccontextmanager
    async def passage(self, seconds: float, ask: Callable[[], None]) -> AsyncIterator[None]:
        """Inside while the variant is awake. `ask` is called, now and again, to have it brought in. Raises
        `NotReady` after `seconds`."""
        if not self._open:
            await self._wait(seconds, ask)
        self.inside += 1
        self.passed += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self._empty.set()

    async def _wait(self, seconds: float, ask: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        pause = GRACE_SECONDS
        failures = self._failures
        # Opened and closed again before this waiter's turn came: it waits on.
        while not self._open:
            # (Counted, not carried by the future: that is cancelled where its reminder is due at the same time.)
            if self._failures > failures:
                raise NotReady(self._reason)
            left = until - loop.time()
            if left <= 0:
                raise NotReady(f"it was not in memory within {seconds:g} s")
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiting.add(waiter)
            try:
                await within(waiter, min(left, pause))
            except TimeoutError:
                ask()
                pause = REMIND_SECONDS
            finally:
                self._waiting.discard(waiter)
