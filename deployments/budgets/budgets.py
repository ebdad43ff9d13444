"""Whether a key may ask now: the shared books while Redis is there, this process's own while it is not.

The own books are always kept, so that nothing is forgotten in the moment when Redis goes; and what a Redis that
comes back does not know, it is told. What neither knows is asked of the Ledger, which has every row.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from deployments.budgets.book import BUSY_SECONDS, LEASE_SECONDS, Book, Cause, Standing
from deployments.budgets.limits import PERIODS, Amount, KeyLimits, Period, period_begin
from deployments.budgets.shared import SharedBooks
from deployments.contract import ChatError
from deployments.timing import within

logger = logging.getLogger("ray.serve")

ANSWER_SECONDS = 0.5
"""A Redis that takes longer is away."""

AWAY_SECONDS = 2.0
"""So long it is not asked again."""

MOST_BEHIND = 10_000
"""Requests of a key whose end Redis has not heard of; what they held there ends by itself."""

LOOK_SECONDS = LEASE_SECONDS / 3

RECKONING_SECONDS = 60.0
"""How often the books are held against the Ledger, which knows of costs that nobody has settled here: of requests
whose Gateway has died, and of what the cache has asked for itself."""

AWAY = (RedisError, OSError, TimeoutError)

SpentSince = Callable[[str, Mapping[Period, float]], Awaitable[Mapping[Period, float]]]
"""US dollars of a key since the begin of each period. Raises `ChatError` where nobody can say."""

Alert = Callable[[str, Period, str, float], None]
"""Key, period, its name, share: a budget is used up to where its owner wants to know."""


NOTHING = Amount(0.0, 0.0)


@dataclass
class Held:
    """A request that is under way. Its caller says what it `took`."""

    standing: Standing
    took: Amount = NOTHING


class Budgets:
    """Of all keys, in one process. Belongs to one event loop."""

    def __init__(
        self,
        shared: SharedBooks,
        spent_since: SpentSince,
        alert: Alert,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shared, self._spent_since, self._alert, self._clock = shared, spent_since, alert, clock
        self._own: dict[str, Book] = {}
        self._under_way: dict[str, dict[str, Amount]] = {}
        """Of each key: request id → what it holds."""
        self._behind: dict[str, deque[str]] = {}
        """Keys of which Redis does not know everything, with the requests that it has not heard the end of."""
        self._alone: dict[str, set[str]] = {}
        """Of each key: requests under way that this process has let in without Redis."""
        self._limits: dict[str, KeyLimits] = {}
        self._alerted: dict[tuple[str, Period], tuple[str, float]] = {}
        self._away_until, self._reckoned = 0.0, time.monotonic()
        self._pending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def hold(self, key_id: str, request_id: str, limits: KeyLimits, most: Amount) -> AsyncIterator[Held]:
        """A place for a request that may take so much; what it took is settled at its end, however it ends. Raises
        a 429 `ChatError`."""
        if limits.counts_nothing:
            yield Held(Standing())
            return
        # A client that leaves cancels this very task, be it while Redis is asked.
        reserving = asyncio.ensure_future(self._reserve(key_id, request_id, limits, most))
        held = Held(Standing())
        try:
            held = Held(await asyncio.shield(reserving))
            if held.standing.refused is not None:
                raise refusal(held.standing.refused, held.standing.retry_after, limits)
            yield held
        finally:
            self._later(self._end(reserving, key_id, request_id, limits, held))

    async def _end(
        self, reserving: asyncio.Future[Standing], key_id: str, request_id: str, limits: KeyLimits, held: Held
    ) -> None:
        if (await reserving).refused is None:
            await self._settle(key_id, request_id, limits, held.took)

    async def standing(self, key_id: str, limits: KeyLimits) -> Standing:
        """How a key stands, without asking for anything."""
        now = self._clock()
        try:
            book: Book = await self._reached(self._shared.read(key_id))
        except AWAY:
            book = self._book(key_id)
        standing = book.standing(limits, now)
        if standing.unknown and (known := await self._from_ledger(key_id, now)) is not None:
            book.known(known, now)
            standing = book.standing(limits, now)
        return standing

    async def look_round(self) -> None:
        """Every `LOOK_SECONDS`: renew what is held, and sometimes hold the books of keys with budgets against the
        Ledger."""
        for key_id in list(self._under_way):
            await self.renew(key_id)
        if time.monotonic() - self._reckoned >= RECKONING_SECONDS:
            self._reckoned = time.monotonic()
            for key_id, limits in list(self._limits.items()):
                if limits.budgets:
                    await self.reckon(key_id)

    async def renew(self, key_id: str) -> None:
        """What one key holds goes on being held."""
        held, now = dict(self._under_way.get(key_id, {})), self._clock()
        if held:
            self._book(key_id).renew(held, now)
            try:
                await self._reached(self._shared.renew(key_id, held, now))
            except AWAY:
                self._behind.setdefault(key_id, deque(maxlen=MOST_BEHIND))

    async def reckon(self, key_id: str) -> None:
        """One key's. (A row may be there before its request is settled: what is held is taken off.)"""
        now = self._clock()
        told = await self._from_ledger(key_id, now)
        if told is None:
            return
        self._book(key_id).known(told, now)
        try:
            await self._reached(self._shared.known(key_id, told, now))
        except AWAY:
            self._behind.setdefault(key_id, deque(maxlen=MOST_BEHIND))

    async def _reserve(self, key_id: str, request_id: str, limits: KeyLimits, most: Amount) -> Standing:
        # (What only paces a key says nothing of its budgets.)
        if limits.budgets or key_id not in self._limits:
            self._limits[key_id] = limits
        now, own = self._clock(), self._book(key_id)
        try:
            await self._catch_up(key_id, limits, now)
            standing = await self._ask(key_id, request_id, limits, most, now)
        except AWAY:
            behind = self._behind.setdefault(key_id, deque(maxlen=MOST_BEHIND))
            if own.standing(limits, now).unknown and (known := await self._from_ledger(key_id, now)):
                own.known(known, now)
            standing = own.reserve(request_id, most, limits, now)
            if standing.refused is None:
                self._alone.setdefault(key_id, set()).add(request_id)
            else:
                # (Redis may have given it a place, and said so too late.)
                behind.append(request_id)
        else:
            own.known(standing.spent, now, settled=True)
            if standing.refused is None:
                # While this answer was under way, others may have been let in without Redis.
                there_are_others = bool(self._alone.get(key_id))
                mine = own.reserve(request_id, most, limits, now, forced=not there_are_others)
                if mine.refused is not None:
                    standing = mine
                    self._behind.setdefault(key_id, deque(maxlen=MOST_BEHIND)).append(request_id)
        if standing.refused is None:
            self._under_way.setdefault(key_id, {})[request_id] = most
        return standing

    async def _catch_up(self, key_id: str, limits: KeyLimits, now: float) -> None:
        """Tell a Redis that was away what it has missed."""
        ended = self._behind.get(key_id)
        if ended is None:
            return
        if ended:
            told = list(ended)
            await self._reached(self._shared.release(key_id, told))
            for request_id in told:
                with suppress(ValueError):
                    ended.remove(request_id)
        await self._reached(self._shared.known(key_id, _spent(self._book(key_id)), now, settled=True))
        self._behind.pop(key_id, None)

    async def _ask(self, key_id: str, request_id: str, limits: KeyLimits, most: Amount, now: float) -> Standing:
        asked = key_id, request_id, most, limits, now
        standing: Standing = await self._reached(self._shared.reserve(*asked, knowing=True))
        if not standing.unknown:
            return standing
        told = await self._from_ledger(key_id, now)
        if told is not None:
            await self._reached(self._shared.known(key_id, told, now))
        await self._reached(self._shared.known(key_id, _spent(self._book(key_id)), now, settled=True))
        again: Standing = await self._reached(self._shared.reserve(*asked))
        return again

    async def _settle(self, key_id: str, request_id: str, limits: KeyLimits, took: Amount) -> None:
        now, own = self._clock(), self._book(key_id)
        under_way = self._under_way.get(key_id, {})
        under_way.pop(request_id, None)
        if not under_way:
            self._under_way.pop(key_id, None)
        alone = self._alone.get(key_id, set())
        alone.discard(request_id)
        if not alone:
            self._alone.pop(key_id, None)
        own.settle(request_id, took, limits, now)
        try:
            await self._reached(self._shared.settle(key_id, request_id, took, limits, now))
        except AWAY:
            self._behind.setdefault(key_id, deque(maxlen=MOST_BEHIND)).append(request_id)
        for period, budget in limits.budgets.items():
            name, spent = own.spent.get(period, ("", 0.0))
            if spent >= limits.alert_at * budget and self._alerted.get((key_id, period)) != (name, budget):
                self._alerted[key_id, period] = (name, budget)
                self._alert(key_id, period, name, spent / budget if budget else 1.0)

    async def _from_ledger(self, key_id: str, now: float) -> Mapping[Period, float] | None:
        try:
            return await self._spent_since(key_id, {period: period_begin(period, now) for period in PERIODS})
        except ChatError as error:
            logger.warning("what %s has spent is not known now: %s", key_id, error.message)
            return None

    async def _reached(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """What Redis says; while it is away it is not waited for."""
        if time.monotonic() < self._away_until:
            asked.close()
            raise TimeoutError("Redis was away a moment ago")
        try:
            return await within(asked, ANSWER_SECONDS)
        except AWAY as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            logger.warning("Redis did not answer; keys are counted by this process alone: %s", error)
            raise

    def _book(self, key_id: str) -> Book:
        return self._own.setdefault(key_id, Book())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


def _spent(book: Book) -> dict[Period, float]:
    return {period: usd for period, (_, usd) in book.spent.items()}


def used(standing: Standing, limits: KeyLimits) -> dict[Period, float]:
    """The share of each budget that is spent."""
    return {
        period: standing.spent.get(period, 0.0) / budget if budget else 1.0
        for period, budget in limits.budgets.items()
    }


def refusal(cause: Cause, retry_after: float, limits: KeyLimits) -> ChatError:
    """A 429, which tells the limit and when to try again."""
    said = {
        "concurrent": f"This key may have {limits.concurrent} requests under way at once",
        "requests": f"This key may ask {limits.requests_per_minute} requests a minute",
        "tokens": f"This key may use {limits.tokens_per_minute} tokens a minute",
    }
    if cause in ("day", "week", "month"):
        budget = {"day": limits.usd_per_day, "week": limits.usd_per_week, "month": limits.usd_per_month}[cause]
        message = f"This key may spend {budget:g} US dollars a {cause}, and has spent them"
        code = "insufficient_quota"
        if retry_after <= BUSY_SECONDS:
            message = f"This key may spend {budget:g} US dollars a {cause}; those under way may cost what is left"
            code = "budget_held"
    else:
        message, code = (
            said[cause],
            "concurrency_limit_exceeded" if cause == "concurrent" else "rate_limit_exceeded",
        )
    return ChatError(
        f"{message}. Try again in {max(1, round(retry_after))} s (`groupqwen keys limits` shows and sets it).",
        status=429,
        kind="rate_limit_error",
        code=code,
        retry_after=retry_after,
    )
