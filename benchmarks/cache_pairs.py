"""Which pairs of questions may share an answer: the cache with its guards beside a fixed distance alone, on
labelled pairs, which are no part of the project (docs/EVALUATION.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.machine import console, show
from benchmarks.routing import DATA
from configs.routing import CacheRules
from deployments.cache.eligibility import eligibility
from deployments.cache.guards import GUARDS, objections
from deployments.cache.likeness import SHIPPED
from deployments.contract import ChatRequest
from groupqwen.pairs import Pair, features_of_pairs, read_pairs
from groupqwen.vectors import vectors_of

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

TRAPS = Path(__file__).parent / "data" / "cache_traps.yaml"
"""Of our own making."""

ALONE = (0.05, 0.10, 0.15, 0.20, 0.40)
"""Cosine distances: 0.10 is the reference's and redisvl's default, 0.20 what LiteLLM's documentation sets, 0.40
GPTCache's default."""

GUARDED = (0.05, 0.10, 0.15)
LIKELY = (0.75, 0.5)
"""Of the mode calibrated, as shipped: the least P(same answer)."""


@dataclass(frozen=True)
class Pairs:
    """Two questions each, and what the cache says of them. `may`: whether both may be served at all by their
    words; `said`: the guards that object; `likely`: P(same answer)."""

    name: str
    distance: Floats
    same: Flags
    may: Flags
    said: list[set[str]]
    likely: Floats


def main(path: Path | None) -> None:
    """A table for each set of pairs."""
    path = path or DATA / "cache" / "pairs.jsonl.gz"
    rows = read_traps(TRAPS) if path.parent == DATA / "cache" else []
    if path.is_file():
        rows += read_pairs(path)
    else:
        console.print(f"[yellow]{path} is not there: name pairs with --pairs (docs/EVALUATION.md)[/yellow]")
    if not rows:
        return
    vectors = vectors_of([text for first, second, _, _ in rows for text in (first, second)], console)
    if vectors is None:
        return
    distance = (1 - np.sum(vectors.values[::2] * vectors.values[1::2], axis=1)).astype(float)
    for name in dict.fromkeys(row[3] for row in rows):
        places = [place for place, row in enumerate(rows) if row[3] == name]
        _table(judged(name, [rows[place] for place in places], distance[places]))


def judged(name: str, rows: list[Pair], distance: Floats) -> Pairs:
    """What each step of the cache says of the pairs of one set."""
    return Pairs(
        name,
        distance,
        np.array([same for _, _, same, _ in rows]),
        np.array([_may(first) and _may(second) for first, second, _, _ in rows]),
        [{one.split(":")[0] for one in objections(first, second)} for first, second, _, _ in rows],
        SHIPPED.probability(features_of_pairs(rows, distance)),
    )


def _may(question: str) -> bool:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": question}]})
    return eligibility(request, CacheRules()).most == "similar"


def read_traps(path: Path) -> list[Pair]:
    """Our own pairs, as `read_pairs` gives them: the question's answer is kept, the other one is asked."""
    found = []
    for topic in yaml.safe_load(path.read_text()):
        found += [(one, topic["question"], True, "traps (ours)") for one in topic["same"]]
        found += [(one, topic["question"], False, "traps (ours)") for _, one in topic["other"]]
    return found


def _table(pairs: Pairs) -> None:
    guarded = pairs.may & np.array([not one for one in pairs.said])
    same = pairs.same
    modes: dict[str, Flags] = {f"up to {most:g} alone": pairs.distance <= most for most in ALONE}
    modes |= {f"up to {most:g}, guarded": (pairs.distance <= most) & guarded for most in GUARDED}
    modes |= {f"calibrated, P ≥ {least:g}": (pairs.likely >= least) & guarded for least in LIKELY}
    strict = CacheRules().strict_distance
    modes["certified, before any check"] = (pairs.distance <= strict) & guarded
    show(
        f"{pairs.name}: {len(same):,} pairs, {same.sum():,} of which one answer serves",
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
    near = pairs.distance <= CacheRules().distance
    spoke = {
        guard: [
            int((near & np.array([guard in one for one in pairs.said]) & label).sum()) for label in (~same, same)
        ]
        for guard in GUARDS
    }
    spoke["not eligible"] = [int((near & ~pairs.may & label).sum()) for label in (~same, same)]
    told = ", ".join(f"{guard} {wrong}/{right}" for guard, (wrong, right) in spoke.items() if wrong or right)
    console.print(f"Within {CacheRules().distance:g}, what spoke against (wrong/right): {told or 'none'}")


def _share(part: Flags, whole: Flags) -> str:
    return f"{part.sum() / whole.sum():.3f}" if whole.any() else "-"
