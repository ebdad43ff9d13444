"""How much may be served, from what was checked: a threshold on P(same answer) and a bound on what it lets
through. Pure.

A request that has a neighbour is an observation. Whether the neighbour's answer would have served is known (a
label) where the request was answered afresh: of every miss, for nothing, and of a random share of what was
served. From labels and observations follows, for each threshold, an upper bound on wrong answers per request.
Hits are divided by P(same answer) into strata; each has the beta distribution of Clopper and Pearson's upper
bound, their mixture by the strata's shares of all requests is taken as a beta distribution of its mean and
variance, and its upper quantile is the bound. The loosest threshold is in force such that it and all stricter
ones keep the bound within the budget (risk-controlling prediction sets, arXiv 2101.02703: the wrong grow with
what is served, so no price is paid for having tried many).

What this rests on, and where it breaks:
- Within a stratum, labels are taken as a sample of hits. Those that cost nothing come from below the threshold of
  their time, where more is wrong, which errs on the safe side; but they are older than the requests that are
  served now. What changes, in what is asked or as the cache fills (at a fixed distance, twice as much is wrong in
  a full one as in an empty one), is seen only as fast as checks come in. Old labels leave with the window.
- A check compares two answers by what they say; it can be wrong itself, both ways.
- P(same answer) is judged by models that have not seen the label (two halves, each judged by the other's).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from deployments.cache.likeness import MEASURES, SHIPPED, Floats, Likeness, fitted

Counts = npt.NDArray[np.int_]

WINDOW = 10_000
"""Labels and observations that count, the newest."""

FEWEST = 100
"""Labels above a threshold from which its bound is taken seriously."""

CONFIDENCE = 0.95
STRATA = 4
PER_STRATUM = 150
"""Labels; each bound is the surer, the more of them its stratum has."""

TRIED = 100
"""Thresholds that are tried, of requests and of labels: those with 1 %, 2 % … of them above."""


@dataclass(frozen=True)
class InForce:
    """What is served now. `threshold`: the least P(same answer), None where nothing may be served. `per_hit`,
    `per_request`: upper bounds on the share of wrong answers; `share`: of requests that are served; `labels`,
    `wrong`: what was checked above the threshold."""

    threshold: float | None = None
    per_hit: float = 1.0
    per_request: float = 0.0
    share: float = 0.0
    labels: int = 0
    wrong: int = 0


@dataclass(frozen=True)
class Known:
    """Labels, and the requests that came."""

    features: tuple[Floats, ...]
    same: tuple[bool, ...]
    seen: tuple[Floats | None, ...]


class Certificate:
    """Of one partition of the requests. `budget`: wrong answers per request; `prior`: P(same answer) before
    anything was checked."""

    def __init__(self, budget: float, confidence: float = CONFIDENCE, prior: Likeness = SHIPPED) -> None:
        self._budget, self._confidence, self._prior = budget, confidence, prior
        self._seen: deque[Floats | None] = deque(maxlen=WINDOW)
        self._features: deque[Floats] = deque(maxlen=WINDOW)
        self._same: deque[bool] = deque(maxlen=WINDOW)
        self._plain: dict[float, tuple[int, int]] = {}
        self._until_anew = FEWEST
        self.likeness: Likeness = prior
        self.in_force = InForce()

    def saw(self, features: Floats | None) -> None:
        """A request came: its features, or None where it has no neighbour that may serve."""
        self._seen.append(features)

    def take(self, budget: float, prior: Likeness, confidence: float) -> None:
        """Another budget, another beginning, or another confidence."""
        if (budget, confidence) == (self._budget, self._confidence) and prior is self._prior:
            return
        if self.labels < FEWEST:
            self.likeness = prior
        self._budget, self._prior, self._confidence = budget, prior, confidence
        self.renew()

    def learned(self, features: Floats, same: bool) -> None:
        """A request was checked."""
        self._features.append(features)
        self._same.append(same)
        self._plain.clear()
        self._until_anew -= 1

    @property
    def due(self) -> bool:
        """Whether a tenth more is known than when it was last reckoned."""
        return self._until_anew <= 0

    @property
    def labels(self) -> int:
        """How many requests were checked."""
        return len(self._same)

    def serves(self, features: Floats) -> tuple[bool, float]:
        """Whether the nearest entry may serve, and P(same answer)."""
        likely = float(self.likeness.probability(features)[0])
        threshold = self.in_force.threshold
        return threshold is not None and likely >= threshold, likely

    def refutes(self, similarity: float) -> bool:
        """Whether what is at least so similar, and meets no objection, was found wrong more often than the budget
        allows, with the same confidence."""
        same = self._plain.get(similarity)
        if same is None:
            rows = [
                right
                for features, right in zip(self._features, self._same, strict=True)
                if features[0] >= similarity and not features[MEASURES:].any()
            ]
            same = self._plain[similarity] = (len(rows), len(rows) - sum(rows))
        labels, wrong = same
        return wrong > 0 and float(betaincinv(wrong, labels - wrong + 1, 1 - self._confidence)) > self._budget

    def renew(self) -> None:
        """The model and the threshold, from what is known now."""
        known = self.known()
        self.adopt(self.reckoned(known))

    def known(self) -> Known:
        """What there is to reckon with, now."""
        self._until_anew = max(20, min(100, len(self._same) // 10))
        return Known(tuple(self._features), tuple(self._same), tuple(self._seen))

    def adopt(self, reckoned: tuple[Likeness, InForce] | None) -> None:
        """Put in force what was reckoned."""
        if reckoned is not None:
            self.likeness, self.in_force = reckoned

    def reckoned(self, known: Known) -> tuple[Likeness, InForce] | None:
        """The model and what may be served, or None where too little is known. It reads nothing that may change
        meanwhile."""
        count = len(known.same)
        if count < FEWEST:
            return None
        features, same = np.array(known.features), np.array(known.same)
        half = np.arange(count) % 2 == 0
        judged = np.empty(count)
        models = []
        for mine in (half, ~half):
            models.append(fitted(features[~mine], same[~mine], self._prior.weights))
            judged[mine] = models[-1].probability(features[mine])
        # What is asked is judged by both: a model of all labels would be surer than those that were tested.
        likeness = Likeness(np.mean([model.weights for model in models], axis=0))
        return likeness, self._loosest(likeness, known, judged, same)

    def _loosest(self, likeness: Likeness, known: Known, judged: Floats, same: npt.NDArray[np.bool_]) -> InForce:
        requests = len(known.seen)
        seen = [one for one in known.seen if one is not None]
        if not seen:
            return InForce()
        asked = np.sort(likeness.probability(np.array(seen)))
        order = np.argsort(judged)
        judged, wrong = judged[order], np.append(0, np.cumsum(~same[order]))
        found = InForce()
        tried = np.concatenate([np.quantile(values, np.linspace(0, 0.99, TRIED)) for values in (asked, judged)])
        for threshold in np.unique(tried)[::-1]:
            first = int(np.searchsorted(judged, threshold))
            labels = len(judged) - first
            if labels < FEWEST:
                continue
            share = float(len(asked) - np.searchsorted(asked, threshold)) / requests
            if not share:
                continue
            cuts = np.linspace(first, len(judged), 1 + max(1, min(STRATA, labels // PER_STRATUM))).astype(int)
            edges = np.append(threshold, judged[cuts[1:-1]])
            weights = np.diff(np.append(np.searchsorted(asked, edges), len(asked))) / requests
            per_request = upper(np.diff(wrong[cuts]), np.diff(cuts), weights, self._confidence)
            if per_request > self._budget:
                break
            per_hit = per_request / share
            found = InForce(float(threshold), per_hit, per_request, share, labels, int(wrong[-1] - wrong[first]))
        return found


def upper(wrong: Counts, labels: Counts, weights: Floats, confidence: float) -> float:
    """The upper bound on the share of wrong ones, over strata of which `weights` are the shares of all."""
    ours, others = wrong + 1.0, np.maximum(labels - wrong, 1e-9)
    total = ours + others
    means = ours / total
    whole = float(weights.sum())
    mean = float(weights @ means) / whole
    variance = float(weights**2 @ (means * (1 - means) / (total + 1))) / whole**2
    size = mean * (1 - mean) / variance - 1
    return whole * float(betaincinv(mean * size, (1 - mean) * size, confidence))
