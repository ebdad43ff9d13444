"""From labelled answers to a threshold, with a promise that holds with a stated confidence. Pure.

An answer is accepted where its score is at least the threshold; else a larger variant is asked. Two promises:

- accepted and wrong: of all questions, no more than a share `most` are answered wrongly by the smaller variant and
  accepted. Each threshold's upper bound is Clopper and Pearson's for a binomial share; the least threshold is
  taken such that it and all stricter ones keep the promise (risk-controlling prediction sets, arXiv 2101.02703).
- quality: what is answered is right at least `share` times as often as the larger variant's own answers.
  Thresholds are tested from the strictest on, each by a betting test (Waudby-Smith and Ramdas, arXiv 2010.09686),
  and the last before the first failure is taken (Learn then Test, arXiv 2110.01052).

Both hold for questions like those that were labelled, and for no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import beta

Values = npt.NDArray[np.float64]

STAKES = np.array([0.05, 0.15, 0.4, 0.7, 0.95])
"""Of the most that a bet can lose without being ruined."""

STEPS = 100
"""Thresholds that are tried: those that accept 1 %, 2 % … of the labelled answers."""


@dataclass(frozen=True)
class Threshold:
    """`value`: the least score that is accepted, infinite where none may be. `accepted`: the share of the labelled
    answers that it accepts. `measured`, `bound`: of accepted-and-wrong, its share and the bound on it; of quality,
    the ratio to the larger variant's, and the ratio that is promised. `questions`: how many were labelled."""

    value: float
    accepted: float
    measured: float
    bound: float
    questions: int
    confidence: float

    @property
    def never(self) -> bool:
        """Whether nothing is accepted."""
        return math.isinf(self.value)


def accepted_wrong(scores: Values, ok: Values, most: float, confidence: float) -> Threshold:
    """The least threshold with which accepted-and-wrong is at most `most`. `scores`, `ok`: tiers × questions, the
    smallest tier first, without the last, whose answers are always accepted; or of one tier. A question is
    answered by the first tier whose score reaches the threshold, which is the same for all of them."""
    scores, ok = np.atleast_2d(scores), np.atleast_2d(ok)
    count = scores.shape[1]
    found = Threshold(math.inf, 0.0, 0.0, upper_share(0, count, confidence), count, confidence)
    for value in _strictest_first(scores):
        accepted, right = _accepted(scores, ok, value)
        wrong = int((accepted & ~right).sum())
        bound = upper_share(wrong, count, confidence)
        if bound > most:
            break
        found = Threshold(float(value), float(accepted.mean()), wrong / count, bound, count, confidence)
    return found


def quality(scores: Values, ok: Values, last_ok: Values, share: float, confidence: float) -> Threshold:
    """The least threshold with which answers are right at least `share` times as often as the last tier's; else as
    `accepted_wrong`."""
    scores, ok = np.atleast_2d(scores), np.atleast_2d(ok)
    count = scores.shape[1]
    found = Threshold(math.inf, 0.0, 1.0, share, count, confidence)
    for value in _strictest_first(scores):
        accepted, right = _accepted(scores, ok, value)
        answered = np.where(accepted, right, last_ok)
        # The shortfall of each question is -1 to `share`; it must be below zero in the mean.
        shortfall = share * last_ok - answered
        if not mean_is_below((shortfall + 1) / (1 + share), 1 / (1 + share), confidence):
            break
        ratio = float(answered.mean() / last_ok.mean())
        found = Threshold(float(value), float(accepted.mean()), ratio, share, count, confidence)
    return found


def _accepted(scores: Values, ok: Values, value: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether some tier's answer is accepted, and whether that answer is right."""
    reached = scores >= value
    first = reached.argmax(axis=0)
    return np.asarray(reached.any(axis=0)), np.asarray(ok[first, np.arange(scores.shape[1])] > 0.5)


def upper_share(events: int, count: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound on a share of which `events` of `count` were seen."""
    return 1.0 if events >= count else float(beta.ppf(confidence, events + 1, count - events))


def mean_is_below(values: Values, limit: float, confidence: float) -> bool:
    """Whether the mean of values from 0 to 1 is below `limit`, by bets against it that together win 1 ÷ (1 -
    confidence) times their stake. The stakes are fixed beforehand, from careful to bold, and share the money."""
    if not len(values) or limit <= 0:
        return False
    stakes = STAKES / max(1e-9, 1 - limit)
    wealth = np.cumsum(np.log1p(-stakes[:, None] * (values - limit)[None, :]), axis=1)
    return float(logsumexp(wealth, axis=0).max()) - math.log(len(STAKES)) >= math.log(1 / (1 - confidence))


def _strictest_first(scores: Values) -> Values:
    """Thresholds in descending order, each once."""
    if not scores.size:
        return np.array([])
    ranked = np.sort(scores, axis=None)[::-1]
    places = np.unique(np.ceil(np.linspace(0, 1, STEPS + 1)[1:] * len(ranked)).astype(int)) - 1
    return np.unique(ranked[places])[::-1]
