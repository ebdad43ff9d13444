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
from scipy.stats import beta

Values = npt.NDArray[np.float64]

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
    """The least threshold with which accepted-and-wrong is at most `most`."""
    count = len(scores)
    found = Threshold(math.inf, 0.0, 0.0, upper_share(0, count, confidence), count, confidence)
    for value in _strictest_first(scores):
        accepted = scores >= value
        wrong = int((accepted & (ok < 0.5)).sum())
        bound = upper_share(wrong, count, confidence)
        if bound > most:
            break
        found = Threshold(float(value), float(accepted.mean()), wrong / count, bound, count, confidence)
    return found


def quality(scores: Values, weak_ok: Values, strong_ok: Values, share: float, confidence: float) -> Threshold:
    """The least threshold with which answers are right at least `share` times as often as the stronger
    variant's."""
    count = len(scores)
    found = Threshold(math.inf, 0.0, 1.0, share, count, confidence)
    for value in _strictest_first(scores):
        accepted = scores >= value
        answered = np.where(accepted, weak_ok, strong_ok)
        # The shortfall of each question is -1 to `share`; it must be below zero in the mean.
        shortfall = share * strong_ok - answered
        if not mean_is_below((shortfall + 1) / (1 + share), 1 / (1 + share), confidence):
            break
        ratio = float(answered.mean() / strong_ok.mean())
        found = Threshold(float(value), float(accepted.mean()), ratio, share, count, confidence)
    return found


def upper_share(events: int, count: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound on a share of which `events` of `count` were seen."""
    return 1.0 if events >= count else float(beta.ppf(confidence, events + 1, count - events))


def mean_is_below(values: Values, limit: float, confidence: float) -> bool:
    """Whether the mean of values from 0 to 1 is below `limit`, by a bet against it that wins 1 ÷ (1 - confidence)
    times its stake. What is staked on a value follows from the values before it."""
    if not len(values):
        return False
    seen = np.arange(1, len(values) + 1)
    mean = (0.5 + np.cumsum(values)) / (1 + seen)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (1 + seen)
    before = np.concatenate([[0.25], variance[:-1]])
    stake = np.sqrt(2 * math.log(1 / (1 - confidence)) / (len(values) * before))
    stake = np.minimum(stake, 0.9 / (1 - limit)) if limit < 1 else stake
    wealth = np.cumsum(np.log1p(-stake * (values - limit)))
    return float(wealth.max()) >= math.log(1 / (1 - confidence))


def _strictest_first(scores: Values) -> Values:
    """Thresholds in descending order, each once."""
    if not len(scores):
        return np.array([])
    ranked = np.sort(scores)[::-1]
    places = np.unique(np.ceil(np.linspace(0, 1, STEPS + 1)[1:] * len(ranked)).astype(int)) - 1
    return np.unique(ranked[places])[::-1]
