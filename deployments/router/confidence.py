"""How sure a variant is of what it says, from the log-probabilities of its tokens as they come. Pure.

What is thought and what is answered are kept apart: a long chain of thought is full of likely tokens, whatever it
comes to. None of these is a probability that the answer is right; `calibration.py` makes one of them.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob

LOW = 0.1
"""The quantile that stands for an answer's least likely tokens."""

SIGNALS = ("mean_logprob", "margin", "low_logprob", "tokens")


@dataclass(frozen=True)
class Signals:
    """Of an answer, or of its beginning. `mean_logprob`, `low_logprob`: natural logarithms, 0 at best. `margin`:
    the mean distance between the likeliest token's probability and the second's, 0 to 1. `tokens`: how many they
    are of."""

    mean_logprob: float
    margin: float
    low_logprob: float
    tokens: int

    def values(self) -> list[float]:
        """In the order of `SIGNALS`, each on a scale of about 1, for the calibration."""
        return [
            max(-5.0, self.mean_logprob),
            self.margin,
            max(-10.0, self.low_logprob) / 5,
            math.log1p(self.tokens) / 5,
        ]


@dataclass
class Tally:
    """The tokens of one answer, counted as they come."""

    _sorted: list[float] = field(default_factory=list)
    _sum: float = 0.0
    _margins: float = 0.0

    def add(self, logprob: float, margin: float) -> None:
        """One token: its log-probability, and how far the likeliest was ahead of the second (probabilities)."""
        bounded = max(-100.0, min(0.0, logprob))
        insort(self._sorted, bounded)
        self._sum += bounded
        self._margins += margin

    def __len__(self) -> int:
        return len(self._sorted)

    def signals(self) -> Signals | None:
        """None before the first token."""
        count = len(self._sorted)
        if not count:
            return None
        low = self._sorted[int(LOW * (count - 1))]
        return Signals(self._sum / count, self._margins / count, low, count)


class Confidence:
    """Watches the chunks of an answer's first choice: `answer` and `thought` are their tallies."""

    def __init__(self) -> None:
        self.answer, self.thought = Tally(), Tally()

    def see(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Take note of chunks, in order."""
        for chunk in chunks:
            for choice in chunk.choices:
                if choice.index or choice.logprobs is None:
                    continue
                thinking = bool(getattr(choice.delta, "reasoning_content", None))
                tally = self.thought if thinking else self.answer
                for token in choice.logprobs.content or []:
                    tally.add(token.logprob, margin_of(token))


def margin_of(token: ChatCompletionTokenLogprob) -> float:
    """The likeliest token's probability less the second's; where alternatives were not asked for, the token's own
    less what all others have together."""
    ranked = sorted((math.exp(min(0.0, other.logprob)) for other in token.top_logprobs), reverse=True)
    if len(ranked) >= 2:
        return ranked[0] - ranked[1]
    own = math.exp(min(0.0, token.logprob))
    return max(0.0, 2 * own - 1)


def signals_of(logprobs: Sequence[float], margins: Sequence[float]) -> Signals | None:
    """Of tokens that are all there."""
    tally = Tally()
    for logprob, margin in zip(logprobs, margins, strict=True):
        tally.add(logprob, margin)
    return tally.signals()
