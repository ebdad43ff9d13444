"""How long anyone waits for Redis: a lookup is worth milliseconds, not a reconnection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from deployments.last_error import LastError
from deployments.timing import within

COOL_DOWN_SECONDS = 1.0
"""After a failure of Redis, lookups are misses for this long, so that nobody waits for a dead one."""

FAILURES = (RedisError, OSError, TimeoutError)
"""What a Redis that is away raises."""

T = TypeVar("T")

logger = logging.getLogger("ray.serve")


class Patience:
    """Asks Redis, but never for longer than a budget, and after a failure not at all for a while."""

    def __init__(self) -> None:
        self.error: str | None = None
        self.last_error = LastError()
        self._blocked_until = 0.0
        self._late = False

    async def ask(self, question: Callable[[], Awaitable[T]], budget_ms: float) -> T | None:
        """What Redis says in time, else None."""
        if asyncio.get_running_loop().time() < self._blocked_until:
            return None
        try:
            found = await within(question(), budget_ms / 1e3)
        except TimeoutError as error:
            # One that is late may be late by this process's own doing; two in a row are Redis'.
            if self._late:
                self.failed(error)
            self._late = True
            return None
        except (RedisError, OSError) as error:
            self.failed(error)
            return None
        self.error, self._late = None, False
        return found

    def failed(self, error: Exception) -> None:
        """Note a failure, and say so once."""
        if self.error is None:
            logger.warning("Redis is away (%s); lookups are misses", error)
        self.error = self.last_error.note(error)
        self._blocked_until = asyncio.get_running_loop().time() + COOL_DOWN_SECONDS
