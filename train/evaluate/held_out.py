"""Held-out loss and perplexity: how likely a model finds answers that it was not trained on. Only the assistant's
tokens count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from train.evaluate.rendering import Row
from train.evaluate.subject import Loss, Subject

T = TypeVar("T")

MOST = 200
"""Conversations that are looked at."""
MOST_TOKENS = 50_000
"""Of all of them: minutes, for a small model on a CPU."""


def chosen(some: Sequence[T], most: int = MOST) -> list[T]:
    """At most so many, from the whole length of the set; always the same."""
    count = len(some)
    return list(some) if count <= most else [some[k * count // most] for k in range(most)]


def affordable(rows: Sequence[Row], most: int = MOST_TOKENS) -> list[Row]:
    """The first of them, as long as their tokens are no more than so many; at least one."""
    lengths = accumulate(len(row.tokens) for row in rows)
    return [row for k, (row, length) in enumerate(zip(rows, lengths, strict=True)) if length <= most or k == 0]


def held_out(subject: Subject, rows: Sequence[Row]) -> Loss:
    """Over all of their tokens."""
    losses = subject.losses(rows)
    return Loss(sum(loss.total for loss in losses), sum(loss.tokens for loss in losses))


def perplexity(loss: Loss) -> float:
    """Of the mean loss; infinite where that is beyond a float."""
    try:
        return math.exp(loss.mean)
    except OverflowError:
        return math.inf
