"""Which pairs of questions may share an answer: the cache with its guards beside a fixed distance alone, on
labelled pairs, which are no part of the project (docs/EVALUATION.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.machine import console, show
from benchmarks.routing import DATA
from configs.routing import load_routing
from deployments.cache.guards import GUARDS, objections
from groupqwen.outcomes import OutcomesError, rows_of
from groupqwen.vectors import vectors_of

Flags = npt.NDArray[np.bool_]

ALONE = (0.05, 0.10, 0.15)
"""Cosine distances; 0.10 is the reference's."""


def main(path: Path | None) -> None:
    """A table for each set of pairs."""
    path = path or DATA / "cache" / "pairs.jsonl.gz"
    if not path.is_file():
        console.print(f"[yellow]{path} is not there: name pairs with --pairs (docs/EVALUATION.md)[/yellow]")
        return
    rows = read_pairs(path)
    vectors = vectors_of([text for first, second, _, _ in rows for text in (first, second)], console)
    if vectors is None:
        return
    distance = 1 - np.sum(vectors.values[::2] * vectors.values[1::2], axis=1)
    said = [{one.split(":")[0] for one in objections(first, second)} for first, second, _, _ in rows]
    same = np.array([label for _, _, label, _ in rows])
    sets = np.array([name for _, _, _, name in rows])
    for name in dict.fromkeys(sets.tolist()):
        _table(
            name,
            distance[sets == name],
            same[sets == name],
            [s for s, of in zip(said, sets, strict=True) if of == name],
        )


def read_pairs(path: Path) -> list[tuple[str, str, bool, str]]:
    """Two questions, whether one answer serves both, and the set that they are of. Raises `OutcomesError`."""
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


def _table(name: str, distance: npt.NDArray[np.float32], same: Flags, said: list[set[str]]) -> None:
    own = load_routing().cache.distance
    guarded = np.array([not one for one in said])
    modes: dict[str, Flags] = {f"up to {most:g} alone": distance <= most for most in ALONE}
    modes |= {
        f"up to {most:g}, guarded{' (ours)' if most == own else ''}": (distance <= most) & guarded
        for most in sorted({*ALONE, own})
    }
    show(
        f"{name}: {len(same):,} pairs, {same.sum():,} of which one answer serves",
        ["mode", "served", "of the same", "precision", "wrong", "of the others"],
        [
            [
                mode,
                f"{served.sum():,}",
                _share(served & same, same),
                _share(served & same, served),
                f"{(served & ~same).sum():,}",
                _share(served & ~same, ~same),
            ]
            for mode, served in modes.items()
        ],
    )
    near = distance <= own
    spoke = {
        guard: [int((near & np.array([guard in one for one in said]) & label).sum()) for label in (~same, same)]
        for guard in GUARDS
    }
    told = ", ".join(f"{guard} {wrong}/{right}" for guard, (wrong, right) in spoke.items() if wrong or right)
    console.print(f"Within {own:g}, guards spoke against (wrong/right): {told or 'none'}")


def _share(part: Flags, whole: Flags) -> str:
    return f"{part.sum() / whole.sum():.3f}" if whole.any() else "-"
