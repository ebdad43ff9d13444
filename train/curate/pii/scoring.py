"""How well personal information is found, on texts in which it is marked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.curation import Kind
from train.curate.pii.found import Found


@dataclass(frozen=True)
class Labelled:
    """A text, and what is in it: (start, end, kind)."""

    text: str
    spans: tuple[tuple[int, int, Kind], ...]


@dataclass
class Score:
    """Of one kind. Found is what is covered to its last letter; right is what touches a mark of its kind."""

    marked: int = 0
    covered: int = 0
    found: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        """1 where nothing is marked."""
        return self.covered / self.marked if self.marked else 1.0

    @property
    def precision(self) -> float:
        """1 where nothing is found."""
        return self.right / self.found if self.found else 1.0


def read_labelled(path: Path) -> list[Labelled]:
    """JSON lines: `text`, and `spans` with `start`, `end` and `kind`."""
    items = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [
        Labelled(each["text"], tuple((s["start"], s["end"], s["kind"]) for s in each["spans"])) for each in items
    ]


def score(labelled: Sequence[Labelled], found: Sequence[Sequence[Found]]) -> dict[Kind, Score]:
    """By kind."""
    scores: dict[Kind, Score] = {}
    for item, spans in zip(labelled, found, strict=True):
        for start, end, kind in item.spans:
            mine = scores.setdefault(kind, Score())
            mine.marked += 1
            letters = {at for f in spans if f.kind == kind for at in range(f.start, f.end)}
            mine.covered += letters >= {at for at in range(start, end) if item.text[at].isalnum()}
        for one in spans:
            mine = scores.setdefault(one.kind, Score())
            mine.found += 1
            mine.right += any(k == one.kind and s < one.end and one.start < e for s, e, k in item.spans)
    return dict(sorted(scores.items()))
