"""P(the same answer serves): what is near, how it is worded, and how its neighbours have done. Pure.

A distance alone does not say it: the same distance is a paraphrase in one place and another question in the next.
What tells more is whether the neighbours have one answer. Entries whose answers were found to say the same are of
one group; a nearest entry with its whole neighbourhood behind it is far surer than one of a divided one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.cache.guards import GUARDS, words_of

Floats = npt.NDArray[np.float64]

FEATURES = ("similarity", "gap", "agreement", "words", "crowd", "record", "length", *GUARDS)
"""In the order of `features_of`."""

MEASURES = len(FEATURES) - len(GUARDS)
"""Of them; the rest are objections."""

CENTRE = np.array([0.85, 0.10, 0.85, 0.45, 0.72, -2.5, 2.2] + [0.0] * len(GUARDS))
SCALE = np.array([0.08, 0.08, 0.25, 0.22, 0.10, 1.0, 0.45] + [1.0] * len(GUARDS))
"""By which features are made comparable; fixed, so that weights can be."""

PRIOR = np.array([0.4, 1.05, 0.0, 0.0, -0.4, 0.0, 0.0, 0.0] + [-4.0] * len(GUARDS))
"""Bias and weights before anything was labelled: of similarity and common words, near what question pairs give
(docs/EVALUATION.md; at the same distance, other words speak for a paraphrase); a guard's objection all but
forbids, until labels say that it need not."""

PULL = 1.0
"""How strongly the weights are drawn to `PRIOR`: as one labelled question in each direction."""

STEEPNESS = 20.0
"""Of a neighbour's say: half as much for every 0.035 that it is farther."""

BEST_RECORD = -4.0
"""Beyond some twenty checks without a wrong one, more of them say little more."""

NO_NEIGHBOUR = 0.05
"""The gap that is assumed to a neighbour that was not looked at."""


@dataclass(frozen=True)
class Neighbour:
    """An entry near a question. `group`: entries whose answers say the same; `right`, `wrong`: how often this
    group's answer was checked for a question, and would have served it, or not."""

    similarity: float
    query: str
    group: str
    right: int = 0
    wrong: int = 0


def features_of(asked: str, near: Sequence[Neighbour]) -> Floats:
    """Of a question and its neighbours, the nearest first (at least one): `FEATURES`."""
    best = near[0]
    similarities = np.array([one.similarity for one in near])
    same = np.array([one.group == best.group for one in near])
    others = similarities[~same]
    runner_up = others[0] if len(others) else similarities[-1] - NO_NEIGHBOUR
    say = np.exp(STEEPNESS * (similarities - best.similarity))
    one, other = set(words_of(asked)), set(words_of(best.query))
    checked = best.right + best.wrong
    return np.array(
        [
            best.similarity,
            best.similarity - runner_up,
            float(say[same].sum() / say.sum()),
            len(one & other) / max(1, len(one | other)),
            similarities[-1],
            max(BEST_RECORD, math.log((best.wrong + 0.5) / (checked + 5))),
            math.log1p(len(one)),
            *(float(guard(asked, best.query) is not None) for guard in GUARDS.values()),
        ]
    )


@dataclass(frozen=True)
class Likeness:
    """A logistic model; `weights`: the bias, then one for each of `FEATURES`."""

    weights: Floats

    def probability(self, features: Floats) -> Floats:
        """P(the same answer serves) of each row of features."""
        return _logistic(_columns(features) @ self.weights)


SHIPPED = Likeness(PRIOR)


def fitted(features: Floats, same: npt.NDArray[np.bool_], prior: Floats = PRIOR) -> Likeness:
    """The model that labels speak for, drawn to `prior` where they say little (Newton's method, in steps that are
    never so long that they overshoot)."""
    columns, weights = _columns(features), prior.copy()
    for _ in range(50):
        likely = _logistic(columns @ weights)
        slope = columns.T @ (likely - same) + PULL * (weights - prior)
        curve = (columns * (likely * (1 - likely))[:, None]).T @ columns + PULL * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        longest = float(np.abs(step).max())
        weights = weights - step / max(1.0, longest)
        if longest < 1e-6:
            break
    return Likeness(weights)


def _logistic(score: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(score, -30, 30))))


def _columns(features: Floats) -> Floats:
    scaled = (np.atleast_2d(features) - CENTRE) / SCALE
    return np.hstack([np.ones((len(scaled), 1)), scaled])
