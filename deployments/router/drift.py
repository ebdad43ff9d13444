"""Whether what was learned still holds: a bet against it that may be looked at after every answer. Pure.

If P(right) is what was said, no bet makes money in the mean; one that has made 1 ÷ alarm says so, and is wrong
with a chance of `alarm` at most, however often one looks (Ville's inequality; Shafer and Vovk's testing by
betting).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STAKES = (-0.8, -0.4, -0.2, 0.2, 0.4, 0.8)
"""Bets that answers are worse than was said, and better."""


@dataclass(frozen=True)
class Drift:
    """`wealth`: of what was staked. `since`: the answer (from 0) after which the alarm was raised, or None.
    `said`, `came`: mean P(right), and the share that was right."""

    wealth: float
    since: int | None
    said: float
    came: float
    answers: int


def drift(answers: Iterable[tuple[float, float]], alarm: float) -> Drift:
    """`answers`: P(right) and what came (0 to 1), in order."""
    purses = [math.log(1 / len(STAKES))] * len(STAKES)
    most, since, said, came, count = 0.0, None, 0.0, 0.0, 0
    for expected, right in answers:
        purses = [
            purse + math.log1p(stake * (right - expected)) for purse, stake in zip(purses, STAKES, strict=True)
        ]
        wealth = sum(math.exp(min(500.0, purse)) for purse in purses)
        most = max(most, wealth)
        if since is None and wealth >= 1 / alarm:
            since = count
        said, came, count = said + expected, came + right, count + 1
    return Drift(most, since, said / max(1, count), came / max(1, count), count)
