"""Which requests are traced: the owner's share of them, up to a bound. A client has no say in it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from configs.tracing import TraceRules
from deployments.tracing.spans import Traced, parent_of


class Sampler:
    """Draws requests. At most as many as `most_per_minute` are in hand at any time, and they come back by the
    second."""

    def __init__(
        self,
        rules: TraceRules,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._rules, self._clock, self._draw = rules, clock, draw
        self._left, self._at = float(rules.most_per_minute), clock()

    def take(self, traceparent: str | None) -> Traced | None:
        """One request's part in it, or None."""
        rules = self._rules
        if self._draw() >= rules.share:
            return None
        now = self._clock()
        most = rules.most_per_minute
        self._left, self._at = min(most, self._left + (now - self._at) * most / 60), now
        if self._left < 1:
            return None
        self._left -= 1
        return Traced(parent_of(traceparent), rules.to, rules.words)


_sampler: Sampler | None = None


def trace_by(rules: Mapping[str, Any] | None) -> None:
    """The rules from now on, for the process; None: nothing is traced. Raises `ValidationError`."""
    global _sampler
    _sampler = None if rules is None else Sampler(TraceRules.model_validate(rules))


def traced(traceparent: str | None) -> Traced | None:
    """Whether a request is traced, and as whose child; `traceparent`: what its client says."""
    return None if _sampler is None else _sampler.take(traceparent)
