"""What was said of the two sides of a comparison, and what that tells. Pure.

Each side's share of good answers is believed to be Beta(1 + up, 1 + down): every share alike before anything was
said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betainc, betaincinv

STEPS = 2000
"""Of the sum that stands for an integral."""


@dataclass(frozen=True)
class Side:
    """One of the two. `good`: the share of good answers as it is believed to be, `low` to `high`: 95 % of it."""

    requests: int
    failed: int
    up: int
    down: int

    def report(self) -> dict[str, Any]:
        """With what it tells."""
        a, b = 1 + self.up, 1 + self.down
        low, high = betaincinv(a, b, [0.025, 0.975])
        told = {"good": a / (a + b), "low": float(low), "high": float(high)}
        return {**vars(self), **{name: round(value, 4) for name, value in told.items()}}


def better(one: Side, other: Side) -> float:
    """P(the share of good answers of the one is greater than the other's)."""
    quantiles = betaincinv(1 + one.up, 1 + one.down, (np.arange(STEPS) + 0.5) / STEPS)
    return round(float(np.mean(betainc(1 + other.up, 1 + other.down, quantiles))), 4)


def sides_of(rows: Mapping[str, Mapping[str, int]]) -> dict[str, Side]:
    """From the Ledger's rows, by arm; nothing was asked of one that has none."""
    nothing = {"requests": 0, "failed": 0, "up": 0, "down": 0}
    return {name: Side(**{**nothing, **rows.get(name, {})}) for name in ("adapter", "base")}
