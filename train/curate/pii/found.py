"""A piece of text that tells who somebody is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from configs.curation import Kind

RANK: dict[Kind, int] = {
    "secret": 0,
    "iban": 1,
    "email": 2,
    "card": 3,
    "ip-address": 4,
    "government-id": 5,
    "phone": 6,
    "password": 7,
    "street-address": 8,
    "name": 9,
}
"""Of two that overlap, the one with the lower rank is it: the surest come first."""


@dataclass(frozen=True)
class Found:
    """What stands in a text from `start` to `end`."""

    start: int
    end: int
    kind: Kind
    text: str


def without_overlaps(found: Iterable[Found]) -> list[Found]:
    """In the order of the text; of those that overlap the surest, then the longest."""
    kept: list[Found] = []
    for each in sorted(found, key=lambda f: (RANK[f.kind], f.start - f.end, f.start)):
        if all(each.end <= other.start or each.start >= other.end for other in kept):
            kept.append(each)
    return sorted(kept, key=lambda f: f.start)
