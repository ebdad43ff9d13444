"""Waiting: no longer than so many seconds, and for several at once. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def within(waited_for: Awaitable[T], seconds: float) -> T:
    """What is waited for, or `TimeoutError`.

    Not `asyncio.wait_for`, which (3.11) returns what has come when it is cancelled in the same turn of the loop:
    so that nobody hears of the cancellation: who left between two tokens went on holding a slot.

    A process that was held up itself, so that it looks at the clock late, gives the same time once more: what has
    come meanwhile is still to be read, and its own delay says nothing of who is waited for.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    handle: asyncio.TimerHandle

    def over(again: bool) -> None:
        nonlocal handle
        if again and loop.time() - due > seconds / 2:
            handle = loop.call_later(seconds, over, False)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        handle = loop.call_at(due, over, True)
        try:
            return await waited_for
        finally:
            handle.cancel()


async def together(calls: Sequence[tuple[Callable[..., Awaitable[T]], *tuple[Any, ...]]], at_once: int) -> list[T]:
    """What these calls (a function and its arguments) return, in order, so many at once. Where one fails, the
    others are stopped, and that is raised."""
    places = asyncio.Semaphore(at_once)

    async def one(call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        async with places:
            return await call(*arguments)

    tasks = [asyncio.ensure_future(one(*call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
