"""Shadow runs: when nothing else is to do, some answers of small variants are asked of the largest too, and
compared. Agreement is a label that costs nobody's attention; it says that the small one would have done. Pure
asyncio."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

ALIKE = 0.85
"""Cosine similarity of two answers from which they say the same, roughly; between this and `APART` it is in
doubt."""

APART = 0.5
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def drawn(request_id: str, share: float) -> bool:
    """Whether this request is one of the share: always the same for the same id."""
    digest = hashlib.blake2b(b"shadow" + request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


async def agreement(
    small: str, large: str, embed: Callable[[list[str]], Awaitable[Sequence[Sequence[float]]]]
) -> float:
    """How far two answers agree, 0 to 1: exactly, as JSON, by their last number, else by their embeddings."""
    if _plain(small) == _plain(large):
        return 1.0
    first, second = _json(small), _json(large)
    if first is not None and second is not None:
        return float(first == second)
    numbers = [_NUMBER.findall(text) for text in (small, large)]
    if all(numbers):
        ends = [found[-1].replace(",", "") for found in numbers]
        if float(ends[0]) != float(ends[1]):
            return 0.0
    one, other = await embed([small, large])
    similarity = sum(a * b for a, b in zip(one, other, strict=True)) / (
        math.hypot(*one) * math.hypot(*other) or 1.0
    )
    return min(1.0, max(0.0, (similarity - APART) / (ALIKE - APART)))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s.,-]", " ", text.lower()).split()).rstrip(" .")


def _json(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None
