"""Hypothesis strategies for streams: the same whole, cut into pieces at any places."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from hypothesis import strategies as st

S = TypeVar("S", str, bytes)


def cut(whole: S, places: list[int]) -> list[S]:
    """`whole` cut at `places` (taken modulo its length; some pieces may be empty)."""
    edges = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[a:b] for a, b in pairwise(edges)]


places = st.lists(st.integers(0, 10_000), max_size=12)
"""Where to cut; use with `cut`."""
