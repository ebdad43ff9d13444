"""How the cache's lookups have ended since the start, and what its hits have saved. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from deployments.cache.answer import Lookup
from deployments.router.decision import HITS

STEP = 0.1
"""How much the last search counts in the share of those that find something."""

WORTH_WAITING = 0.05
"""The share from which a variant waits for the search. A hit that it was asked for in vain costs it some 100 ms of
its time on a processor; a miss costs the one who asks some 5 ms."""


class Lookups:
    """Of one Router."""

    def __init__(self) -> None:
        self._found = 0.0
        self._outcomes: Counter[str] = Counter()
        self._tokens, self._seconds, self._cost_usd = 0, 0.0, 0.0

    def seen(self, lookup: Lookup) -> None:
        """One more."""
        self._outcomes[lookup.outcome] += 1
        if lookup.answer is not None:
            self._tokens += lookup.answer.completion_tokens
            self._seconds += lookup.answer.seconds
            self._cost_usd += lookup.answer.cost_usd

    def searched(self, found: bool) -> None:
        """A similar question was looked for."""
        self._found += STEP * (found - self._found)

    def head_start(self, most_seconds: float) -> float:
        """How long the cache may search before a variant is asked, in seconds: not at all where it finds next to
        nothing."""
        return most_seconds if self._found >= WORTH_WAITING else 0.0

    def report(self) -> dict[str, Any]:
        """Outcomes and savings. (Who listens to another's answer saves what that one takes, which is not known
        when it begins: it is not counted.)"""
        hits = sum(self._outcomes[kind] for kind in HITS)
        asked = hits + self._outcomes["miss"]
        return {
            "outcomes": {kind: self._outcomes[kind] for kind in (*HITS, "miss", "bypass")},
            "hit_rate": hits / asked if asked else None,
            "completion_tokens_saved": self._tokens,
            "seconds_saved": round(self._seconds, 3),
            "cost_saved_usd": self._cost_usd,
        }
