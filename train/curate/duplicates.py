"""Which conversations say the same: by their words, by pieces of their text (MinHash), by what they mean.

MinHash (Broder 1997), by datasketch, finds whom to compare; then the shares are counted exactly, so that a
threshold means what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from train.conversation import Conversation
from train.curate.normal import numbers, plain, same_words, told

Progress = Callable[[int], object]
"""Told how many conversations more are done."""
PERMUTATIONS = 256
LEAST_RECALL = 0.999
"""Of two that are exactly at the threshold, the chance that they are compared."""
ROWS = 1024
"""Of a block of cosines."""


@dataclass(frozen=True)
class Pair:
    """Two conversations, by their places, and how near they are: at most 1."""

    first: int
    second: int
    likeness: float


def exact_pairs(conversations: Sequence[Conversation]) -> Iterator[Pair]:
    """Of those with the same words one (the first that is rated, or the first), and each other one."""
    groups: dict[str, list[int]] = {}
    for at, each in enumerate(conversations):
        groups.setdefault(same_words(each), []).append(at)
    for group in groups.values():
        best = next((at for at in group if conversations[at].rating is not None), group[0])
        yield from (Pair(min(best, at), max(best, at), 1.0) for at in group if at != best)


def pieces(text: str, letters: int) -> frozenset[str]:
    """All runs of so many letters; of a shorter text it is the whole."""
    text = plain(text)
    return frozenset(text[i : i + letters] for i in range(max(1, len(text) - letters + 1)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """What two sets have in common, of all that is in them."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def bands(near: float) -> tuple[int, int]:
    """Bands and rows of the index: the fewest comparisons at which `LEAST_RECALL` holds."""
    for rows in range(32, 0, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - near**rows) ** count >= LEAST_RECALL:
            return count, rows
    return PERMUTATIONS, 1


def near_pairs(
    conversations: Sequence[Conversation], near: float, letters: int, done: Progress = lambda _: None
) -> Iterator[Pair]:
    """All with a Jaccard likeness of `near` or more."""
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(near))
    texts = [told(each) for each in conversations]
    of = lru_cache(maxsize=4096)(lambda at: pieces(texts[at], letters))
    for at in range(len(texts)):
        signature = sign(of(at))
        # Sorted: the index gives a set, whose order is not the same in every process.
        for other in sorted(index.query(signature)):
            likeness = jaccard(of(other), of(at))
            if likeness >= near:
                yield Pair(other, at, likeness)
        index.insert(at, signature)
        done(1)


def sign(text: frozenset[str]) -> MinHash:
    """Its MinHash; the same in every process."""
    signature = MinHash(num_perm=PERMUTATIONS, seed=1)
    signature.update_batch([piece.encode("utf-8", "replace") for piece in text])
    return signature


def alike_pairs(vectors: npt.NDArray[np.float32], near: float) -> Iterator[Pair]:
    """All with a cosine of `near` or more. `vectors` are unit vectors (n, dimensions). By blocks: n × 1024 numbers
    at once."""
    for start in range(0, len(vectors), ROWS):
        block = vectors[start : start + ROWS] @ vectors[: start + ROWS].T
        for row, column in np.argwhere(block >= near):
            if column < start + row:
                yield Pair(int(column), int(start + row), min(1.0, float(block[row, column])))


def later_of_same(
    conversations: Sequence[Conversation], pairs: Sequence[Pair], same: float, keep_numbers: bool
) -> dict[int, Pair]:
    """Who goes, and because of whom: in order, each that is the same as one that stays.

    One that the owner has rated stands before one that he has not; else the earlier stays. Two of which one is
    liked and the other disliked, or whose rejected answers differ, both stay.
    """
    by_one: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.likeness >= same:
            by_one.setdefault(pair.first, []).append(pair)
            by_one.setdefault(pair.second, []).append(pair)
    order = sorted(by_one, key=lambda at: (conversations[at].rating is None, at))
    gone: dict[int, Pair] = {}
    stays: set[int] = set()
    for at in order:
        for pair in sorted(by_one[at], key=lambda p: (-p.likeness, p.first, p.second)):
            other = pair.first if pair.second == at else pair.second
            if other in stays and _replaces(conversations[other], conversations[at], keep_numbers):
                gone[at] = Pair(other, at, pair.likeness)
                break
        else:
            stays.add(at)
    return gone


def _replaces(kept: Conversation, other: Conversation, keep_numbers: bool) -> bool:
    if other.rating is not None and kept.rating != other.rating:
        return False
    if plain(kept.rejected or "") != plain(other.rejected or ""):
        return False
    return not keep_numbers or numbers(kept) == numbers(other)
