"""Waiting for what another task or thread does. A sleep does not stand for it: a machine may be held up for longer
than any sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable


async def until(condition: Callable[[], object | Awaitable[object]], seconds: float = 30) -> None:
    """Until `condition` (or what it promises) holds; `TimeoutError` where it does not come to."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.005)
