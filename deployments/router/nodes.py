"""Which variants on other machines are there now: asked every second, because a machine that falls asleep says
nothing. Pure asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from deployments.timing import within

T = TypeVar("T")
Ask = Callable[[], Awaitable[object]]

PERIOD_SECONDS = 1.0
ANSWER_SECONDS = 1.5
STRIKES = 2
"""Unanswered questions in a row after which a variant is taken to be gone: within four seconds."""


class Nodes:
    """The variants that `away` holds are not offered. Belongs to one event loop."""

    def __init__(self, variants: Mapping[str, Ask]) -> None:
        """`variants`: how each is asked whether it is there. All count as away until they have answered."""
        self._ask = dict(variants)
        self._strikes = dict.fromkeys(variants, STRIKES)
        self._gone = {name: asyncio.Event() for name in variants}
        self.away = set(variants)

    def __contains__(self, name: str) -> bool:
        return name in self._ask

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.gather(*(self._look(name) for name in self._ask))
            await asyncio.sleep(PERIOD_SECONDS)

    async def _look(self, name: str) -> None:
        try:
            await within(self._ask[name](), ANSWER_SECONDS)
        except Exception:  # Ray raises errors of several libraries for one that is gone.
            self._strikes[name] += 1
            if self._strikes[name] >= STRIKES:
                self.leaves(name)
            return
        self._strikes[name] = 0
        if name in self.away:
            self.away.discard(name)
            self._gone[name] = asyncio.Event()

    def leaves(self, name: str) -> None:
        """It is gone: nobody is sent there, and who waits for it is told."""
        self._strikes[name] = STRIKES
        self.away.add(name)
        self._gone[name].set()

    async def until_gone(self, name: str, steps: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """`steps`, for as long as the variant is there. Raises `NodeGone`."""
        gone = asyncio.create_task(self._gone[name].wait())
        step: asyncio.Future[T] | None = None
        try:
            while True:
                step = asyncio.ensure_future(anext(steps))
                await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
                    raise NodeGone(name)
                try:
                    item = step.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            gone.cancel()
            if step is not None:
                step.cancel()


class NodeGone(Exception):
    """The machine does not answer any more."""
