"""Linear models of P(right), one for each variant, over any features of questions. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from deployments.classifier.learned import Floats
from deployments.classifier.measures import auroc

STRENGTHS = (0.1, 0.3, 1.0)
"""Inverses of the regularization, scikit-learn's C."""

CHOSEN_BY = 4
"""Variants, from the worst to the best, that decide between them: thirty would say the same."""

CHOSEN_FROM = 2000
"""Rows, of each split's two parts at most: more would say the same, in minutes."""

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Matrix = Any
"""Rows × columns: scipy's csr_matrix, which has no types, or an array."""


def fit(matrix: Matrix, right: Sequence[Values], strength: float) -> tuple[Floats, Floats]:
    """Weights (variants × columns) and bias. `right`: for each variant 1 or 0 for each row, NaN where it has not
    answered. `strength`: one of `STRENGTHS`."""
    weights = np.zeros((len(right), matrix.shape[1]), np.float32)
    bias = np.zeros(len(right), np.float32)
    for index, ok in enumerate(right):
        known = ~np.isnan(ok)
        weights[index], bias[index] = _one(matrix[known], ok[known] > 0.5, strength)
    return weights, bias


def _one(matrix: Matrix, right: npt.NDArray[np.bool_], strength: float) -> tuple[Values, float]:
    if right.all() or not right.any():
        # Nothing to tell apart: one more of each kind than was seen.
        return np.zeros(matrix.shape[1]), math.log((right.sum() + 1) / ((~right).sum() + 1))
    fitted = LogisticRegression(C=strength, max_iter=500).fit(matrix, right)
    return fitted.coef_[0], float(fitted.intercept_[0])


def best_strength(matrix: Matrix, right: Sequence[Values], splits: Sequence[tuple[Rows, Rows]]) -> float:
    """Of `STRENGTHS`, the one under which what is held out (`splits`: of the rows) is told apart best, by AUROC.
    (Not by likelihood, which would ask for scores that need no calibration; they get one.)"""
    by_mean = sorted(range(len(right)), key=lambda index: float(np.nanmean(right[index])))
    asked = {by_mean[round(place)] for place in np.linspace(0, len(by_mean) - 1, min(CHOSEN_BY, len(by_mean)))}
    told = dict.fromkeys(STRENGTHS, 0.0)
    for learned_from, held in splits:
        for index in sorted(asked):
            ok = right[index]
            rows, other = (_some(part[~np.isnan(ok[part])]) for part in (learned_from, held))
            if not len(rows) or not len(other):
                continue
            for strength in STRENGTHS:
                weights, bias = _one(matrix[rows], ok[rows] > 0.5, strength)
                told[strength] += len(other) * auroc(np.asarray(matrix[other] @ weights + bias), ok[other])
    return max(STRENGTHS, key=lambda strength: told[strength])


def _some(rows: Rows) -> Rows:
    """Evenly spread."""
    return rows[:: -(-len(rows) // CHOSEN_FROM)] if len(rows) > CHOSEN_FROM else rows
