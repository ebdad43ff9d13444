"""The query log's days: a partition for each (UTC), made when its first row comes, dropped when it is too old."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg

logger = logging.getLogger("ray.serve")

PARTITION = re.compile(r"queries_(\d{8})")
CLOCK_TOLERANCE_SECONDS = 3600.0
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that nobody moves, and that goes on while the machine sleeps."""

PARTITIONS = """
select child.relname from pg_inherits
join pg_class child on child.oid = pg_inherits.inhrelid
where pg_inherits.inhparent = 'queries'::regclass
"""


def partition(day: date) -> str:
    """The name of a day's partition."""
    return f"queries_{day.isoformat().replace('-', '')}"


def day_of(at: float) -> date:
    """The day (UTC) of a moment (Unix seconds). Raises `ValueError` or `OverflowError` where there is none."""
    return datetime.fromtimestamp(at, UTC).date()


async def ensure(connection: Any, days: Iterable[date]) -> None:
    """Make these days' partitions, where they are not there yet."""
    for day in sorted(set(days)):
        try:
            # (Another Ledger, while one replaces the other, may make the same.)
            async with connection.transaction():
                await connection.execute(
                    f"create table if not exists {partition(day)} partition of queries "
                    f"for values from ('{day}T00:00:00Z') to ('{day + timedelta(days=1)}T00:00:00Z')"
                )
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
            continue


async def drop_before(connection: Any, first: date) -> list[str]:
    """Drop all days before this one. Returns their partitions' names."""
    names = [record["relname"] for record in await connection.fetch(PARTITIONS)]
    old = sorted(name for name in names if PARTITION.fullmatch(name) and name < partition(first))
    for name in old:
        await connection.execute(f"drop table if exists {name}")
    return old


class Retention:
    """Says once an hour which days may go. A clock that was moved while this process lives deletes nothing: what
    it calls old may be of today."""

    def __init__(
        self,
        days: int | None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(STEADY),
    ) -> None:
        """`steady`: seconds that nobody moves."""
        self._days, self._clock, self._steady = days, clock, steady
        self._offset = clock() - steady()
        self._next = 0.0

    def first_kept(self) -> date | None:
        """The first day that stays, when it is time to look; else None."""
        if self._days is None or self._steady() < self._next:
            return None
        self._next = self._steady() + 3600.0
        moved = self._clock() - self._steady() - self._offset
        if abs(moved) > CLOCK_TOLERANCE_SECONDS:
            logger.warning("the clock was moved by %.0f s: no old rows are deleted until the next start", moved)
            return None
        return day_of(self._clock()) - timedelta(days=self._days)
