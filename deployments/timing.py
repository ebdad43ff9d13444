"""Waiting no longer than so many seconds. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(waited_for: Awaitable[T], seconds: float) -> T:
    """What is waited for, or `TimeoutError`.

    Not `asyncio.wait_for`, which (3.11) returns what has come when it is cancelled in the same turn of the loop:
    so that nobody hears of the cancellation: who left between two tokens went on holding a slot.
    """
    async with asyncio.timeout(seconds):
        return await waited_for
