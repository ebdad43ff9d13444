"""P(same answer) from labelled pairs of questions, and what it is worth on pairs that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from sklearn.model_selection import KFold

from deployments.cache.calibrated import write_likeness
from deployments.cache.likeness import SHIPPED, Floats, Likeness, fitted
from deployments.embedding.embedder import fingerprint_of
from groupqwen.outcomes import OutcomesError
from groupqwen.pairs import features_of_pairs, read_pairs
from groupqwen.vectors import vectors_of

FEWEST_PAIRS = 50
FOLDS = 5
LEAST = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Calibrated:
    """`rows`: for a least P(same answer), the shares that are served, right of these, and served of what is the
    same. `loss`: log loss, held out; `loss_before`: of what is shipped."""

    likeness: Likeness
    embedder: str
    pairs: int
    loss: float
    loss_before: float
    rows: list[tuple[float, float, float | None, float]]

    def write(self, path: Path) -> None:
        """Keep it for the group."""
        write_likeness(path, self.likeness, self.embedder, self.pairs)


def calibrated(path: Path, console: Console) -> Calibrated | None:
    """Learn; None, and a word about it, where the embedder is not here. Raises `OutcomesError`."""
    pairs = read_pairs(path)
    same = np.array([same for _, _, same, _ in pairs])
    if len(pairs) < FEWEST_PAIRS or same.all() or not same.any():
        raise OutcomesError(f"{path}: it needs at least {FEWEST_PAIRS} pairs, some the same and some not")
    vectors = vectors_of([text for first, second, _, _ in pairs for text in (first, second)], console)
    if vectors is None:
        return None
    distance = (1 - np.sum(vectors.values[::2] * vectors.values[1::2], axis=1)).astype(float)
    features = features_of_pairs(pairs, distance)
    judged = np.empty(len(pairs))
    for known, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        judged[held_out] = fitted(features[known], same[known]).probability(features[held_out])
    return Calibrated(
        fitted(features, same),
        fingerprint_of(vectors.file),
        len(pairs),
        _loss(judged, same),
        _loss(SHIPPED.probability(features), same),
        [_row(least, judged, same) for least in LEAST],
    )


def _loss(likely: Floats, same: npt.NDArray[np.bool_]) -> float:
    return float(-np.log(np.clip(np.where(same, likely, 1 - likely), 1e-9, 1)).mean())


def _row(least: float, likely: Floats, same: npt.NDArray[np.bool_]) -> tuple[float, float, float | None, float]:
    served = likely >= least
    right = float(same[served].mean()) if served.any() else None
    return least, float(served.mean()), right, float(served[same].mean())
