"""Which KV slot a new prompt should start from: longest-common-prefix reuse between requests.

A slot is one of the context's sequence ids, with the tokens whose cells it holds. Pure: decides,
and touches no memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

KEEP_SHARE = 0.5
"""A slot is continued in place if at least this share of its tokens is reused; else its prefix is
copied and it stays, because what would be thrown away is likely to be asked for again."""


@dataclass
class Slot:
    """One sequence id of the context. `tokens` are those in the KV cache; `adapter` is the LoRA they
    were computed with; `last_used` orders eviction (any increasing number)."""

    id: int
    tokens: Tokens
    adapter: str | None = None
    busy: bool = False
    last_used: float = 0.0


@dataclass(frozen=True)
class Placement:
    """Run in `slot`, starting with `reused` tokens that come from `source` (itself, or another)."""

    slot: Slot
    source: Slot
    reused: int


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix of two token arrays."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    at = int(differs.argmax()) if n else 0
    return at if n and differs[at] else n


def place(prompt: Tokens, adapter: str | None, slots: Iterable[Slot]) -> Placement | None:
    """The best slot for `prompt`, or None if every slot is busy.

    At least the prompt's last token is left to compute, since its logits start the answer.
    """
    slots = list(slots)
    idle = [slot for slot in slots if not slot.busy]
    if not idle:
        return None
    lengths = {
        slot.id: min(common_prefix(prompt, slot.tokens), len(prompt) - 1)
        for slot in slots
        if slot.adapter == adapter and len(slot.tokens)
    }
    source = max(
        (slot for slot in slots if slot.id in lengths),
        key=lambda slot: (lengths[slot.id], not slot.busy, slot.last_used),
        default=None,
    )
    if source is None or lengths[source.id] == 0:
        slot = _cheapest(idle)
        return Placement(slot, slot, 0)
    reused = lengths[source.id]
    if not source.busy and reused >= KEEP_SHARE * len(source.tokens):
        return Placement(source, source, reused)
    others = [slot for slot in idle if slot is not source]
    target = _cheapest(others) if others else source
    return Placement(target, source, reused)


def _cheapest(idle: list[Slot]) -> Slot:
    """An empty slot if there is one, else the least recently used."""
    return min(idle, key=lambda slot: (len(slot.tokens) > 0, slot.last_used))


def worth_waiting(
    prompt: Tokens, adapter: str | None, computing: Iterable[tuple[Tokens, str | None]], have: int, gain: int
) -> bool:
    """Whether some prompt that is being computed right now will share at least `gain` more tokens with
    `prompt` than the `have` that are reusable already: then waiting for it beats computing them twice."""
    return any(
        other_adapter == adapter and min(common_prefix(prompt, other), len(prompt) - 1) >= have + gain
        for other, other_adapter in computing
    )
