"""Whether a verifier's yes may serve: what it said of doubtful questions, against what fresh answers showed. Pure.

A verifier is asked about questions that the certificate lets nothing serve. While too little is known of it, its
word is only written down: the question is answered anew, and the answer shows whether it was right. Its yes serves
once the share of requests to which it would serve a wrong answer is, with `CONFIDENCE`, within what the
certificate has left of the owner's budget (whose own bound holds with as much while a verifier is in force:
together 95 %).
What was learned is of one verifier by one set of thresholds in one partition; another begins anew. Labels of
questions that the certificate has come to serve by itself say nothing of what is left to the verifier: they do not
count any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from scipy.special import betaincinv

from deployments.cache.certificate import FEWEST, WINDOW
from deployments.cache.likeness import Floats

CONFIDENCE = 0.975


class Verified:
    """What is known of one verifier in one partition."""

    def __init__(self) -> None:
        self._said: deque[bool] = deque(maxlen=WINDOW)
        self._features: deque[Floats] = deque(maxlen=WINDOW)
        self._same: deque[bool] = deque(maxlen=WINDOW)

    def saw(self, yes: bool) -> None:
        """A request came while this verifier was in force: whether it said yes to it (no, where it was not
        asked)."""
        self._said.append(yes)

    def learned(self, features: Floats, same: bool) -> None:
        """A request that it said yes to was answered afresh: whether the kept answer would have served."""
        self._features.append(features)
        self._same.append(same)

    def counted(self, doubtful: Callable[[Floats], Floats]) -> tuple[int, int]:
        """Its yeses to what is doubtful now that were checked, and how many of them were wrong. `doubtful`: of
        rows of features, which are."""
        if not self._same:
            return 0, 0
        counts = np.asarray(doubtful(np.array(self._features)), bool)
        same = np.array(self._same)[counts]
        return len(same), int((~same).sum())

    def per_request(self, doubtful: Callable[[Floats], Floats]) -> float:
        """The upper bound on wrong answers per request, if its yes serves (Clopper and Pearson's for the hits)."""
        if not self._said:
            return 1.0
        labels, wrong = self.counted(doubtful)
        per_hit = float(betaincinv(wrong + 1, max(1e-9, labels - wrong), CONFIDENCE))
        return per_hit * sum(self._said) / len(self._said)

    def serves(self, left: float, doubtful: Callable[[Floats], Floats]) -> bool:
        """Whether its yes may serve, where so much of the budget (wrong answers per request) is left."""
        return self.counted(doubtful)[0] >= FEWEST and self.per_request(doubtful) <= left
