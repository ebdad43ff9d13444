"""Work that goes on for ever, whatever fails in one round of it. Pure asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("ray.serve")


async def repeat(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Do it every so many seconds; a failure is logged, and the next round comes all the same."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            logger.exception("what goes on in the background has failed once")
