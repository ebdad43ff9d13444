"""What a key may ask and spend, and the time that each of it is for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Period = Literal["day", "week", "month"]
PERIODS: tuple[Period, ...] = ("day", "week", "month")
"""Of a calendar, in UTC; a week begins on Monday."""


@dataclass(frozen=True)
class KeyLimits:
    """Of one key; None: no limit. Dollars are those of `cost_usd` in the Ledger."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    """Requests at once."""
    usd_per_day: float | None = None
    usd_per_week: float | None = None
    usd_per_month: float | None = None
    alert_at: float = 0.8
    """The share of a budget at which its owner is told."""

    @property
    def budgets(self) -> Mapping[Period, float]:
        """US dollars, of the periods that have a limit."""
        named: dict[Period, float | None] = {
            "day": self.usd_per_day,
            "week": self.usd_per_week,
            "month": self.usd_per_month,
        }
        return {period: most for period, most in named.items() if most is not None}

    @property
    def counts_nothing(self) -> bool:
        """Whether nothing is limited."""
        counted = self.requests_per_minute, self.tokens_per_minute, self.concurrent
        return not self.budgets and all(most is None for most in counted)


@dataclass(frozen=True)
class Amount:
    """What a request takes, or may take at most."""

    tokens: float
    usd: float


def period_name(period: Period, at: float) -> str:
    """The period that holds a moment (Unix seconds). Names sort as the periods follow each other."""
    day = datetime.fromtimestamp(at, UTC)
    if period == "day":
        return f"{day:%Y-%m-%d}"
    if period == "month":
        return f"{day:%Y-%m}"
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def period_begin(period: Period, at: float) -> float:
    """When it began (Unix seconds)."""
    day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "week":
        day -= timedelta(days=day.weekday())
    elif period == "month":
        day = day.replace(day=1)
    return day.timestamp()


def period_end(period: Period, at: float) -> float:
    """When the next one begins (Unix seconds)."""
    begin = datetime.fromtimestamp(period_begin(period, at), UTC)
    if period == "month":
        return begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1).timestamp()
    return (begin + timedelta(days=1 if period == "day" else 7)).timestamp()
