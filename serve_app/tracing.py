"""Which requests are traced: the owner's share of them, up to a bound. A client has no say in it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from configs.ledger import QueryText
from configs.tracing import TraceRules
from deployments.tracing.spans import Traced, parent_of


class Sampler:
    """Draws requests. At most as many as `most_per_minute` are in hand at any time, and they come back by the
    second. `query_text`: what is kept of the questions of keys that say nothing of it."""

    def __init__(
        self,
        rules: TraceRules,
        query_text: QueryText = "text",
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._rules, self._query_text, self._clock, self._draw = rules, query_text, clock, draw
        self._left, self._at = float(rules.most_per_minute), clock()

    def take(self, traceparent: str | None, query_text: QueryText | None = None) -> Traced | None:
        """One request's part in it, or None. Its words are none's whose key keeps them out of the query log."""
        rules = self._rules
        if self._draw() >= rules.share:
            return None
        now = self._clock()
        most = rules.most_per_minute
        self._left, self._at = min(most, self._left + (now - self._at) * most / 60), now
        if self._left < 1:
            return None
        self._left -= 1
        words = rules.words and (query_text or self._query_text) == "text"
        return Traced(parent_of(traceparent), rules.to, words)


_sampler: Sampler | None = None


def trace_by(rules: Mapping[str, Any] | None, query_text: QueryText = "text") -> None:
    """The rules from now on, for the process; None: nothing is traced. Raises `ValidationError`."""
    global _sampler
    _sampler = None if rules is None else Sampler(TraceRules.model_validate(rules), query_text)


def traced(traceparent: str | None, query_text: QueryText | None = None) -> Traced | None:
    """Whether a request is traced, and as whose child. `traceparent`: what its client says; `query_text`: what its
    key does."""
    return None if _sampler is None else _sampler.take(traceparent, query_text)
