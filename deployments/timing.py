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
    """
    async with asyncio.timeout(seconds):
        return await waited_for


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
