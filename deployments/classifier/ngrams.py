"""What a text is made of, as the learned router sees it: words, pairs of words, pieces of words, and its shape.
Pure.

Plain Python over one text at a time, because a decision has a millisecond: scikit-learn's vectorizers take that
long for their bookkeeping alone. A text is read up to `READ_CHARS` from each end.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

READ_CHARS = 1500
PIECES = (3, 4, 5)
"""Lengths of the pieces of words."""

_WORDS = re.compile(r"\w+|[^\w\s]")
_MATHS = frozenset("=+-*/^<>%$\\")

SHAPE = ("length", "words", "digits", "capitals", "lines", "maths", "questions")
"""Names of the shape's values, each about 0 to 1."""


@lru_cache(maxsize=16)
def terms(text: str) -> tuple[Counter[str], Counter[str]]:
    """How often each word and pair of words occurs, and each piece of a word. (Kept for a moment: several layers
    read one question.)"""
    words = _WORDS.findall(shortened(text).lower())
    whole = Counter(words)
    whole.update(map(" ".join, pairwise(words)))
    pieces: Counter[str] = Counter()
    for word, count in Counter(words).items():
        for piece in _pieces(word):
            pieces[piece] += count
    return whole, pieces


def shape(text: str) -> list[float]:
    """The values named in `SHAPE`."""
    read = shortened(text)
    size = max(1, len(read))
    return [
        min(1.0, len(text) / 4000) ** 0.5,
        min(1.0, text.count(" ") / 600) ** 0.5,
        sum(map(str.isdigit, read)) / size,
        sum(map(str.isupper, read)) / size,
        min(1.0, read.count("\n") / 20),
        min(1.0, 5 * sum(character in _MATHS for character in read) / size),
        min(1.0, read.count("?") / 4),
    ]


def shortened(text: str) -> str:
    """Both ends of a long text: what is asked stands at one of them."""
    return text if len(text) <= 2 * READ_CHARS else f"{text[:READ_CHARS]}\n{text[-READ_CHARS:]}"


@lru_cache(maxsize=50_000)
def _pieces(word: str) -> tuple[str, ...]:
    """Pieces of a word with its borders marked; most words come again and again."""
    bordered = f" {word[:40]} "
    return tuple(bordered[i : i + n] for n in PIECES for i in range(len(bordered) - n + 1))
