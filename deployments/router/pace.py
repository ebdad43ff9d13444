"""How fast each variant answers here and now, as the Router sees it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SMOOTHING = 0.2
USUAL_TOKENS = 150.0


@dataclass
class _Seen:
    first: float
    per_token: float


class Pace:
    """Running means of the time to the first token and of each further one, and how many requests are under
    way."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._under_way: Counter[str] = Counter()
        self.usual_tokens = USUAL_TOKENS

    @contextmanager
    def asked(self, variant: str) -> Iterator[None]:
        """While a request is with a variant."""
        self._under_way[variant] += 1
        try:
            yield
        finally:
            self._under_way[variant] -= 1

    @property
    def busy(self) -> bool:
        """Whether anyone waits for an answer now."""
        return any(self._under_way.values())

    def note(self, variant: str, first: float, total: float, tokens: int) -> None:
        """One answer, seconds."""
        per_token = max(0.0, total - first) / max(1, tokens - 1)
        seen = self._seen.setdefault(variant, _Seen(first, per_token))
        seen.first += SMOOTHING * (first - seen.first)
        if tokens > 1:
            seen.per_token += SMOOTHING * (per_token - seen.per_token)
            self.usual_tokens += SMOOTHING * (tokens - self.usual_tokens)

    def seconds(self, variant: str, tokens: float | None = None) -> float:
        """Until a whole answer is there; 0 for one that was never asked (it must be, to be known)."""
        seen = self._seen.get(variant)
        if seen is None:
            return 0.0
        # Batched requests slow each other down, though by less than one after the other.
        crowd = 1 + 0.5 * self._under_way[variant]
        return crowd * (seen.first + seen.per_token * (self.usual_tokens if tokens is None else tokens))
