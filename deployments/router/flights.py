"""Requests that are the same and asked at once: one of them is answered, and all of them hear it. Pure asyncio.

The answer is made in a task of its own. Who asked first may leave and it goes on for the others; when the last one
has left it is stopped, so that a variant never works for nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from contextlib import aclosing
from typing import Generic, TypeVar

Item = TypeVar("Item")
Key = tuple[Hashable, ...]


class Flight(Generic[Item]):
    """One answer under way, and all that was said of it so far."""

    def __init__(self, steps: AsyncGenerator[Item, None]) -> None:
        self._said: list[Item] = []
        self._news = asyncio.Event()
        self._over = False
        self._failure: BaseException | None = None
        self._listeners = 0
        self._unpaid = False
        # In a context of its own: Serve stops all that a request has asked for when its client leaves, and this is
        # not the first one's alone.
        self._task = asyncio.get_running_loop().create_task(self._fly(steps), context=contextvars.Context())

    def when_over(self, then: Callable[[], object]) -> None:
        """Call this once, at the end."""
        self._task.add_done_callback(lambda _: then())

    @property
    def over(self) -> bool:
        """Whether all was said."""
        return self._over

    async def _fly(self, steps: AsyncGenerator[Item, None]) -> None:
        try:
            async with aclosing(steps):
                async for item in steps:
                    self._said.append(item)
                    self._wake()
        except asyncio.CancelledError as cancelled:
            self._failure = cancelled
            raise
        except Exception as failure:  # Whatever it is, it is everyone's who listens.
            self._failure = failure
        finally:
            self._over = True
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def takes_over(self) -> bool:
        """Whether the one who should have paid has left, for the first that asks."""
        unpaid, self._unpaid = self._unpaid, False
        return unpaid

    async def listen(self, *, pays: bool = False) -> AsyncIterator[Item]:
        """All of it, from the beginning. Raises what the answer raised. Once the last listener has left, the
        answer is stopped. `pays`: it is charged for the answer, if it stays."""
        self._listeners += 1
        stays = False
        try:
            heard = 0
            while True:
                while heard < len(self._said):
                    heard += 1
                    yield self._said[heard - 1]
                if self._over:
                    break
                await self._news.wait()
            stays = True
            if self._failure is not None:
                raise self._failure
        finally:
            self._listeners -= 1
            self._unpaid = self._unpaid or (pays and not stays)
            if not self._listeners and not self._over:
                # Closed to others at once; and whoever leaves waits until the variant has let go.
                self._over = True
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)


class Flights(Generic[Item]):
    """Those under way, by what makes requests the same."""

    def __init__(self) -> None:
        self._flights: dict[Key, Flight[Item]] = {}

    def join(self, key: Key) -> Flight[Item] | None:
        """The one to listen to, where the same is being answered."""
        flight = self._flights.get(key)
        return None if flight is None or flight.over else flight

    def start(self, key: Key, steps: AsyncGenerator[Item, None]) -> Flight[Item]:
        """A new one, that others may join until it is over."""
        flight = self._flights[key] = Flight(steps)
        flight.when_over(lambda: self._flights.pop(key) if self._flights.get(key) is flight else None)
        return flight
