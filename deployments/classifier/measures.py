"""How good a router and its probabilities are. Pure; arrays have one value for each question."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Values = npt.NDArray[np.float64]


def apgr(score: Values, weak_ok: Values, strong_ok: Values) -> float:
    """Area under the quality recovered against the share of calls that go to the strong model: 0.5 is chance, 1
    would be all of the gap for no calls. `score`: the higher, the rather strong. (RouteLLM, arXiv 2406.18665;
    ties are broken by the mean of both orders, so that a constant score is chance.)"""
    gap = float(strong_ok.mean() - weak_ok.mean())
    if gap <= 0:
        raise ValueError(
            f"the strong model is no better than the weak one (by {gap:.3f}): there is no gap to recover"
        )
    gain = strong_ok - weak_ok
    return (_area(gain, np.argsort(-score, kind="stable")) + _area(gain, _other_ties(score))) / 2 / gap


def _area(gain: Values, order: npt.NDArray[np.intp]) -> float:
    recovered = np.concatenate([[0.0], np.cumsum(gain[order])]) / len(gain)
    return float(np.trapezoid(recovered, dx=1 / len(gain)))


def _other_ties(score: Values) -> npt.NDArray[np.intp]:
    backwards = len(score) - 1 - np.argsort(-score[::-1], kind="stable")
    return np.asarray(backwards)


def calibration_error(probability: Values, ok: Values, bins: int = 10) -> float:
    """Expected calibration error over bins of equally many questions: the mean distance between what was
    promised and what was kept, 0 to 1."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(probability[part].mean() - ok[part].mean()) for part in parts) / len(order))


def expected_calibration_error(probability: Values, ok: Values, bins: int = 10) -> float:
    """ECE as it is usually given (Guo et al., arXiv 1706.04599): the same over bins of equal width."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=probability - ok, minlength=bins)
    return float(np.abs(gaps).sum() / len(ok))


def chance_error(probability: Values, draws: int = 200, seed: int = 0) -> float:
    """The ECE that these probabilities would show in the mean if each of them were exactly true: what is left of
    it with so few answers."""
    draw = np.random.default_rng(seed)
    outcomes = (draw.random((draws, len(probability))) < probability).astype(np.float64)
    return float(np.mean([expected_calibration_error(probability, ok) for ok in outcomes]))


def auroc(score: Values, ok: Values) -> float:
    """The chance that a right one scores above a wrong one; 0.5 where one of the two kinds is missing."""
    right = ok > 0.5
    return 0.5 if right.all() or not right.any() else float(roc_auc_score(right, score))
