"""Labelled pairs of questions: whether one answer serves both, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deployments.cache.likeness import Floats, Neighbour, features_of
from groupqwen.outcomes import OutcomesError, rows_of

Pair = tuple[str, str, bool, str]
"""A question, one whose answer is kept, whether it serves the first, and the set that they are of."""


def read_pairs(path: Path) -> list[Pair]:
    """JSON lines or CSV, gzip or not, with `a`, `b`, `same` (0 or 1) and, if wanted, `set`. Raises
    `OutcomesError`."""
    found = []
    for line, row in rows_of(path):
        first, second, same = (
            str(row.get(key) if row.get(key) is not None else "").strip() for key in ("a", "b", "same")
        )
        if not first or not second or same not in ("0", "1"):
            raise OutcomesError(f"{path}, line {line}: it needs `a`, `b` and `same` (0 or 1)")
        found.append((first, second, same == "1", str(row.get("set") or "all")))
    if not found:
        raise OutcomesError(f"{path} has no pairs")
    return found


def features_of_pairs(pairs: list[Pair], distance: Floats) -> Floats:
    """Features (pairs × `FEATURES`) of the first question of each, beside the second alone."""
    return np.array(
        [
            features_of(first, [Neighbour(1 - far, second, "kept")])
            for (first, second, _, _), far in zip(pairs, distance, strict=True)
        ]
    )
