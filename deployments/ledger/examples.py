"""Answers that can still be rated: the last ones, in memory, with what led to them. One that is rated becomes a
row of the Ledger. Pure.

Only of keys whose words may be kept; only what is text from beginning to end and ended by itself: nothing else can
be learned from.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.ledger.opinions import TABLE

MOST_CHARS = 16 << 20
"""Of all that are remembered."""
MOST_CHARS_EACH = 200_000
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


@dataclass(frozen=True)
class Answered:
    """A question, and what was said."""

    key_id: str
    variant: str | None
    messages: list[dict[str, str]]
    answer: str

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.answer) + sum(len(message["content"]) for message in self.messages)


class Answers:
    """The last `most` of them, and of these no more than `MOST_CHARS`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Answered] = OrderedDict()
        self._size = 0

    def keep(self, request_id: str, answered: Answered) -> None:
        """Remember one; the oldest give way."""
        if not self._most or not answered.answer.strip() or answered.size > MOST_CHARS_EACH:
            return
        self._forget(request_id)
        self._kept[request_id] = answered
        self._size += answered.size
        while len(self._kept) > self._most or self._size > MOST_CHARS:
            self._forget(next(iter(self._kept)))

    def rated(self, request_id: str, key_id: str, good: bool, correction: str | None) -> dict[str, Any] | None:
        """The row of an answer that is rated by who has asked for it; None where it is not remembered. The same
        said twice is one row."""
        answered = self._kept.get(request_id)
        if answered is None or answered.key_id != key_id:
            return None
        said = f"{request_id}\0{good}\0{correction or ''}".encode("utf-8", "replace")
        return {
            TABLE: "examples",
            "id": hashlib.blake2b(said, digest_size=12).hexdigest(),
            "at": time.time(),
            "request_id": request_id,
            "key_id": key_id,
            "variant": answered.variant,
            "rating": "up" if good else "down",
            "messages": answered.messages,
            "answer": answered.answer,
            "correction": correction,
        }

    def _forget(self, request_id: str) -> None:
        gone = self._kept.pop(request_id, None)
        if gone is not None:
            self._size -= gone.size


def plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]] | None:
    """Messages as texts; None where anything but text was said: images, calls of tools."""
    told = []
    for message in messages:
        role, text = ROLES.get(message.get("role", "")), _text(message.get("content"))
        if role is None or text is None or message.get("tool_calls") or message.get("function_call"):
            return None
        told.append({"role": role, "content": text})
    return told


def _text(content: object) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]
