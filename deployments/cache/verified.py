"""Whether a verifier's yes may serve: what it said of doubtful questions, against what fresh answers showed. Pure.

A verifier is asked about questions that the certificate lets nothing serve. While too little is known of it, its
word is only written down: the question is answered anew, and the answer shows whether it was right. Its yes serves
once the share of requests to which it would serve a wrong answer is, with 95 % confidence, within what the
certificate has left of the owner's budget.
"""

from __future__ import annotations

from collections import deque

from scipy.special import betaincinv

from deployments.cache.certificate import CONFIDENCE, FEWEST, WINDOW


class Verified:
    """What is known of the verifier."""

    def __init__(self) -> None:
        self._said: deque[bool] = deque(maxlen=WINDOW)
        self._same: deque[bool] = deque(maxlen=WINDOW)

    def saw(self, yes: bool) -> None:
        """A request came: whether the verifier said yes to it (no, where it was not asked)."""
        self._said.append(yes)

    def learned(self, same: bool) -> None:
        """A request that it said yes to was answered afresh: whether the kept answer would have served."""
        self._same.append(same)

    @property
    def labels(self) -> int:
        """How many of its yeses were checked."""
        return len(self._same)

    @property
    def wrong(self) -> int:
        """How many of these were wrong."""
        return self.labels - sum(self._same)

    def per_request(self) -> float:
        """The upper bound on wrong answers per request, if its yes serves (Clopper and Pearson's for the hits)."""
        if not self._said:
            return 1.0
        per_hit = float(betaincinv(self.wrong + 1, max(1e-9, self.labels - self.wrong), CONFIDENCE))
        return per_hit * sum(self._said) / len(self._said)

    def serves(self, left: float) -> bool:
        """Whether its yes may serve, where so much of the budget (wrong answers per request) is left."""
        return self.labels >= FEWEST and self.per_request() <= left
