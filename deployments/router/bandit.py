"""Learning while answering: what was said of answers, by variant and task family, and a little exploration
(Thompson sampling over P(right)). Pure."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.router.choice import Offer

REMEMBERED = 10_000
STRENGTH = 20.0
"""What was thought before weighs as much as so many verdicts."""


@dataclass
class _Verdicts:
    good: float = 0.0
    bad: float = 0.0


class Bandit:
    """Of one Router's replica. `explore`: the share of requests that may be spent on learning."""

    def __init__(self, explore: float, draw: random.Random | None = None) -> None:
        self.explore = explore
        self._draw = draw or random.Random()  # noqa: S311
        self._verdicts: dict[tuple[str, str], _Verdicts] = {}
        self._asked: OrderedDict[str, tuple[str, str, str]] = OrderedDict()

    def answered(self, request_id: str, key_id: str, variant: str, task: str) -> None:
        """Who has answered what, for when something is said of it."""
        self._asked[request_id] = key_id, variant, task
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)

    def said(self, request_id: str, key_id: str, good: bool) -> bool:
        """A verdict on an answer, once, from who has asked for it. Whether it counts."""
        asked = self._asked.get(request_id)
        if asked is None or asked[0] != key_id:
            return False
        del self._asked[request_id]
        verdicts = self._verdicts.setdefault(asked[1:], _Verdicts())
        verdicts.good, verdicts.bad = verdicts.good + good, verdicts.bad + (not good)
        return True

    def informed(self, offers: Sequence[Offer], task: str) -> list[Offer]:
        """The offers with what was said of such answers since."""
        return [replace(offer, correct=self._mean(offer, task)) for offer in offers]

    def explores(self) -> bool:
        """Whether this request is one to learn from."""
        return self._draw.random() < self.explore

    def sampled(self, offers: Sequence[Offer], task: str) -> list[Offer]:
        """The offers as they may be: P(right) drawn from what is believed of each."""
        drawn = []
        for offer in offers:
            seen = self._verdicts.get((offer.variant, task), _Verdicts())
            good = STRENGTH * offer.correct + seen.good
            bad = STRENGTH * (1 - offer.correct) + seen.bad
            drawn.append(replace(offer, correct=self._draw.betavariate(max(good, 1e-3), max(bad, 1e-3))))
        return drawn

    def _mean(self, offer: Offer, task: str) -> float:
        seen = self._verdicts.get((offer.variant, task))
        if seen is None:
            return offer.correct
        return (STRENGTH * offer.correct + seen.good) / (STRENGTH + seen.good + seen.bad)
