"""The books of one key: what it holds, what it has spent. Pure; `shared.py` keeps the same books in Redis.

- Requests and tokens per minute are buckets that hold a minute's worth and fill up steadily: whoever was refused
  is served again when the time that was told is over, whatever happened in between.
- A request that is under way holds a reservation: a place, and what it may cost at most. It is renewed while the
  request lasts, and ends with its lease, so that nothing stays held when whoever should give it back has died.
- A budget takes a request while there is anything left of it; beside others that are under way, only where all
  that they may cost still fits. So it is overshot by one reservation at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from deployments.budgets.limits import PERIODS, Amount, KeyLimits, Period, next_name, period_end, period_name

Cause = Literal["concurrent", "requests", "tokens", "day", "week", "month"]

BUSY_SECONDS = 1.0
"""When to try again where only requests that are under way stand in the way."""

LEASE_SECONDS = 30.0
"""So long a reservation lasts that nobody renews."""


@dataclass(frozen=True)
class Standing:
    """How a key stands once it was asked for: what is left, and of each budget the share that is used or held.
    `refused`: by which limit; `retry_after` in seconds. `unknown`: periods whose spending nobody has told yet."""

    refused: Cause | None = None
    retry_after: float = 0.0
    requests_left: float | None = None
    tokens_left: float | None = None
    spent: Mapping[Period, float] = field(default_factory=dict)
    unknown: tuple[Period, ...] = ()


@dataclass
class Bucket:
    """Holds `most`, and fills up within a minute."""

    level: float | None = None
    at: float = 0.0

    def fill(self, most: float, now: float) -> float:
        """To what it holds now. A clock that was put back fills nothing, and holds nothing up."""
        level = most if self.level is None else self.level
        self.level = min(most, level + max(0.0, now - self.at) * most / 60)
        self.at = now
        return self.level

    def wait(self, needed: float, most: float) -> float:
        """Seconds until it holds so much."""
        return max(0.0, needed - (self.level or 0.0)) * 60 / most


@dataclass
class Book:
    """One key's. `now` is Unix time, seconds, everywhere."""

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    leases: dict[str, tuple[float, Amount]] = field(default_factory=dict)
    """Request id → when the lease ends, and what is held."""
    spent: dict[Period, tuple[str, float]] = field(default_factory=dict)
    """The period's name, and US dollars."""

    def reserve(
        self,
        request_id: str,
        most: Amount,
        limits: KeyLimits,
        now: float,
        *,
        forced: bool = False,
        knowing: bool = False,
    ) -> Standing:
        """Hold `most` for a request. `forced`: someone else has decided that it may. `knowing`: nothing is held
        while it is not known what was spent."""
        self._end_leases(now)
        self._turn_over(now)
        if knowing and any(period not in self.spent for period in limits.budgets):
            return self._standing(limits, None, 0.0)
        most = within_a_minute(most, limits)
        asked, read = limits.requests_per_minute, limits.tokens_per_minute
        if asked is not None:
            self.requests.fill(asked, now)
        if read is not None:
            self.tokens.fill(read, now)
        refused, wait = (None, 0.0) if forced else self._refusal(most, limits, now)
        if refused is None:
            if asked is not None:
                self.requests.level = (self.requests.level or 0.0) - 1
            if read is not None:
                self.tokens.level = (self.tokens.level or 0.0) - most.tokens
            self.leases[request_id] = (now + LEASE_SECONDS, most)
        return self._standing(limits, refused, wait)

    def standing(self, limits: KeyLimits, now: float) -> Standing:
        """As it is now; nothing is held."""
        self._turn_over(now)
        for bucket, most in ((self.requests, limits.requests_per_minute), (self.tokens, limits.tokens_per_minute)):
            if most is not None:
                bucket.fill(most, now)
        return self._standing(limits, None, 0.0)

    def settle(self, request_id: str, took: Amount, limits: KeyLimits, now: float) -> None:
        """The request has ended: what it held is free, and what it took is spent."""
        _, held = self.leases.pop(request_id, (0.0, took))
        if limits.tokens_per_minute is not None:
            level = self.tokens.fill(limits.tokens_per_minute, now)
            self.tokens.level = min(limits.tokens_per_minute, level + held.tokens - took.tokens)
        self._turn_over(now)
        for period in PERIODS:
            name, usd = self.spent.get(period, (period_name(period, now), 0.0))
            if period in self.spent:
                self.spent[period] = (name, usd + took.usd)

    def known(self, spent: Mapping[Period, float], now: float, *, settled: bool = False) -> None:
        """At least so much was spent in the periods of `now` (US dollars), as someone else has counted; where that
        is not `settled`, what is still held here may be in it. (Of a period that is over by then nothing is
        taken.)"""
        self._end_leases(now)
        self._turn_over(now)
        for period, usd in spent.items():
            asked = period_name(period, now)
            name, counted = self.spent.get(period, (asked, 0.0))
            if name == asked:
                self.spent[period] = (name, max(usd - (0.0 if settled else self.held_usd), counted, 0.0))

    @property
    def held_usd(self) -> float:
        """What requests that are under way may cost at most."""
        return sum(held.usd for _, held in self.leases.values())

    def _refusal(self, most: Amount, limits: KeyLimits, now: float) -> tuple[Cause | None, float]:
        if limits.concurrent is not None and len(self.leases) >= limits.concurrent:
            return "concurrent", BUSY_SECONDS
        for period, budget in limits.budgets.items():
            spent = self.spent.get(period, ("", 0.0))[1]
            if spent >= budget:
                return period, period_end(period, now) - now
            if self.leases and spent + self.held_usd + most.usd > budget:
                return period, BUSY_SECONDS
        asked, read = limits.requests_per_minute, limits.tokens_per_minute
        if asked is not None and (self.requests.level or 0.0) < 1:
            return "requests", self.requests.wait(1, asked)
        if read is not None and (self.tokens.level or 0.0) < most.tokens:
            return "tokens", self.tokens.wait(most.tokens, read)
        return None, 0.0

    def _standing(self, limits: KeyLimits, refused: Cause | None, wait: float) -> Standing:
        return Standing(
            refused,
            wait,
            self.requests.level if limits.requests_per_minute is not None else None,
            self.tokens.level if limits.tokens_per_minute is not None else None,
            {period: usd for period, (_, usd) in self.spent.items()},
            tuple(period for period in limits.budgets if period not in self.spent),
        )

    def renew(self, held: Mapping[str, Amount], now: float) -> None:
        """These requests are still under way."""
        there = {name: most for name, most in held.items() if name in self.leases}
        self.leases |= {name: (now + LEASE_SECONDS, most) for name, most in there.items()}

    def _end_leases(self, now: float) -> None:
        # (One that ends too late was written by a clock that was put back since.)
        self.leases = {
            name: (until, held)
            for name, (until, held) in self.leases.items()
            if now < until <= now + 2 * LEASE_SECONDS
        }

    def _turn_over(self, now: float) -> None:
        """What was spent in a period that is over counts no more. The next one was begun by a clock that was put
        back since: it goes on. Of one that is further ahead nothing is believed."""
        for period, (name, _) in list(self.spent.items()):
            current = period_name(period, now)
            if name < current:
                self.spent[period] = (current, 0.0)
            elif name > next_name(period, now):
                del self.spent[period]


def within_a_minute(most: Amount, limits: KeyLimits) -> Amount:
    """No more tokens than a minute's worth: what is larger is served from a full bucket, and owes at its end what
    it took beyond."""
    read = limits.tokens_per_minute
    return most if read is None else Amount(min(most.tokens, read), most.usd)
