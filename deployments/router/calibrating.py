"""Learns, offline, what a variant's confidence is worth: labelled answers in, a `Calibration` out.

Logistic regression (Platt's, on several signals) for each variant, with a part of its own for each task family,
then a calibration of the held-out scores: a line with few labels, a monotone curve with many. Every figure is of
answers that were not learned from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from deployments.classifier.measures import auroc, expected_calibration_error
from deployments.classifier.training import TooLittle, calibration
from deployments.router.calibration import CHECKPOINTS, Calibrated, Calibration, Evidence, Head, Values, features
from deployments.router.confidence import Signals, signals_of

LEAST_ANSWERS = 50
LEAST_OF_FAMILY = 25
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverses of the regularization, scikit-learn's C: by cross-validated likelihood, since families need what few
labels cannot carry."""

LEAST_OF_KIND = 5
"""Right and wrong answers each, for a choice between them."""

RELIABILITY_BINS = 10


@dataclass(frozen=True)
class Answered:
    """One labelled answer. `logprobs`, `margins`: token by token, where they were kept. `prior`: P(right) as it
    was thought before the answer, by a router that has not seen the question."""

    question: str
    signals: Signals
    ok: bool
    family: str | None = None
    logprobs: Sequence[float] = ()
    margins: Sequence[float] = ()
    prior: float | None = None
    largest_ok: bool = True


def calibrate(
    answers: Mapping[str, Sequence[Answered]],
    folds: int = 5,
    seed: int = 0,
    checkpoints: Sequence[int] = CHECKPOINTS,
) -> Calibration:
    """Of each variant's labelled answers. Raises `TooLittle`."""
    for name, labelled in answers.items():
        if len(labelled) < LEAST_ANSWERS:
            raise TooLittle(f"{name}: {len(labelled)} labelled answers are too few; {LEAST_ANSWERS} are the least")
    # Thousands of small fits: threads would only wait for each other, on a busy machine for minutes.
    with threadpool_limits(1):
        fitted = {name: _fit(labelled, folds, seed, checkpoints) for name, labelled in answers.items()}
    digest = hashlib.sha256()
    for name, labelled in answers.items():
        for one in labelled:
            digest.update(f"{name}\0{one.question}\0{one.ok}\0{one.signals}\n".encode())
    about = {
        "data": digest.hexdigest(),
        "measures": {name: _measures(answers[name], one.evidence) for name, one in fitted.items()},
    }
    return Calibration(fitted, about)


def _fit(labelled: Sequence[Answered], folds: int, seed: int, checkpoints: Sequence[int]) -> Calibrated:
    families = _families(labelled)
    ok = np.array([float(one.ok) for one in labelled])
    heads, scores = [], []
    whole_head, whole = _head(None, np.arange(len(labelled)), labelled, families, ok, folds, seed)
    for tokens in checkpoints:
        rows = np.array([index for index, one in enumerate(labelled) if len(one.logprobs) > tokens], int)
        if len(rows) < LEAST_ANSWERS:
            continue
        head, held_out = _head(tokens, rows, labelled, families, ok, folds, seed)
        heads.append(head)
        # A shorter answer is whole by then.
        scores.append(whole.copy())
        scores[-1][rows] = held_out
    asked = hashlib.sha256("\0".join(one.question for one in labelled).encode()).hexdigest()
    largest = np.array([float(one.largest_ok) for one in labelled])
    evidence = Evidence(np.array([*scores, whole]), ok, largest, asked)
    return Calibrated(families, (*heads, whole_head), evidence)


def _families(labelled: Sequence[Answered]) -> tuple[str, ...]:
    """Those with enough labels of both kinds for a calibration of their own."""
    named = sorted({one.family for one in labelled if one.family})
    kept = []
    for family in named:
        right = [one.ok for one in labelled if one.family == family]
        if len(right) >= LEAST_OF_FAMILY:
            kept.append(family)
    return tuple(kept)


def _head(
    tokens: int | None,
    rows: npt.NDArray[np.intp],
    labelled: Sequence[Answered],
    families: tuple[str, ...],
    ok: Values,
    folds: int,
    seed: int,
) -> tuple[Head, Values]:
    """A head, and calibrated scores of the answers that it was not learned from."""
    matrix = np.array([_features(labelled[row], tokens, families) for row in rows])
    right = ok[rows]
    raw = np.zeros(len(rows))
    for learned_from, held in _folds(len(rows), folds, seed):
        weights, bias = _regression(matrix[learned_from], right[learned_from])
        raw[held] = matrix[held] @ weights + bias
    calibrated = np.zeros(len(rows))
    for learned_from, held in _folds(len(rows), folds, seed + 1):
        calibrated[held] = np.interp(raw[held], *calibration(raw[learned_from], right[learned_from]))
    weights, bias = _regression(matrix, right)
    xs, ys = calibration(raw, right)
    knots = tuple(float(x) for x in xs), tuple(float(y) for y in ys)
    return Head(tokens, float(bias), tuple(float(weight) for weight in weights), knots), calibrated


def _features(one: Answered, tokens: int | None, families: tuple[str, ...]) -> list[float]:
    begun = one.signals if tokens is None else signals_of(one.logprobs[:tokens], one.margins[:tokens])
    assert begun is not None
    return features(begun.values(), one.family, families, one.prior)


def _regression(matrix: Values, ok: Values) -> tuple[Values, float]:
    right = ok > 0.5
    if right.all() or not right.any():
        # Nothing to tell apart: one more of each kind than was seen.
        return np.zeros(matrix.shape[1]), math.log((right.sum() + 1) / ((~right).sum() + 1))
    # On one scale, so that the regularization means the same for all signals.
    middle, spread = matrix.mean(axis=0), matrix.std(axis=0)
    spread[spread < 1e-9] = 1.0
    scaled = (matrix - middle) / spread
    if min(right.sum(), (~right).sum()) < LEAST_OF_KIND:
        fitted = LogisticRegression(C=STRENGTHS[0], max_iter=1000).fit(scaled, right)
    else:
        fitted = LogisticRegressionCV(
            Cs=STRENGTHS,
            cv=5,
            scoring="neg_log_loss",
            max_iter=1000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        ).fit(scaled, right)
    weights = fitted.coef_[0] / spread
    return np.asarray(weights, float), float(fitted.intercept_[0] - weights @ middle)


def _folds(count: int, folds: int, seed: int) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    yield from KFold(folds, shuffle=True, random_state=seed).split(np.zeros(count))


def _measures(labelled: Sequence[Answered], evidence: Evidence) -> dict[str, Any]:
    """On answers that were not learned from, whole ones."""
    ok, after = evidence.ok, evidence.scores[-1]
    before = np.array([math.exp(one.signals.mean_logprob) for one in labelled])
    return {
        "answers": len(labelled),
        "right": round(float(ok.mean()), 4),
        "auroc": round(auroc(after, ok), 4),
        "calibration_error_before": round(expected_calibration_error(before, ok), 4),
        "calibration_error": round(expected_calibration_error(after, ok), 4),
        "reliability": [[round(x, 4), round(y, 4), n] for x, y, n in reliability(after, ok)],
        "reliability_before": [[round(x, 4), round(y, 4), n] for x, y, n in reliability(before, ok)],
    }


def reliability(probability: Values, ok: Values) -> list[tuple[float, float, int]]:
    """Bins of equally many answers: what was said, what came true, how many."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, RELIABILITY_BINS) if len(part)]
    return [(float(probability[part].mean()), float(ok[part].mean()), len(part)) for part in parts]
