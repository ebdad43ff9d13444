"""Circuit breakers: a variant that has failed is left alone for a while, then tried by one request. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_SECONDS = 300.0
"""However often a variant has failed, it is tried again after so long."""

TRIAL_SECONDS = 30.0
"""A trial that has not ended by then (its client may have left) makes room for another."""


@dataclass
class _Breaker:
    failures: int
    cause: str
    until: float
    """When it may be tried again."""
    trial: float | None = None
    """Since when one request tries it."""


class Breakers:
    """One for each variant. Closed: it is asked like any other. Open, after a failure: it is asked only if nobody
    else can answer; each failure in a row doubles the time. Half open, after that time: one request tries it, the
    others go on as if it were open; what comes of that closes or opens it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._broken: dict[str, _Breaker] = {}

    def failed(self, variant: str, seconds: float, cause: str = "") -> None:
        """It rests, for so long at its first failure."""
        failures = self._broken[variant].failures + 1 if variant in self._broken else 1
        rest = min(seconds * 2 ** (failures - 1), max(seconds, LONGEST_SECONDS))
        self._broken[variant] = _Breaker(failures, cause, self._clock() + rest)

    def asked(self, variant: str) -> None:
        """A request is on its way to it."""
        broken = self._broken.get(variant)
        if broken is not None and self._clock() >= broken.until:
            broken.trial = self._clock()

    def answered(self, variant: str) -> None:
        """It has given a whole answer."""
        self._broken.pop(variant, None)

    def rests(self, variant: str) -> bool:
        """Whether it is better left alone now."""
        broken = self._broken.get(variant)
        if broken is None:
            return False
        tried = broken.trial is not None and self._clock() < broken.trial + TRIAL_SECONDS
        return tried or self._clock() < broken.until

    def __contains__(self, variant: object) -> bool:
        return isinstance(variant, str) and self.rests(variant)

    def report(self) -> dict[str, dict[str, Any]]:
        """Those that are not closed: since how many failures, the last one's cause, and seconds until a trial."""
        return {
            variant: {
                "failures": broken.failures,
                "cause": broken.cause,
                "seconds": round(max(0.0, broken.until - self._clock()), 1),
            }
            for variant, broken in self._broken.items()
        }
