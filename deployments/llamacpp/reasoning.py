"""Splits `<think>…</think>` off an answer while it streams. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Part:
    """A stretch of the answer: the chain of thought, or the content."""

    kind: Literal["reasoning", "content"]
    text: str


class ReasoningParser:
    """`opened`: the prompt itself ends with `<think>`, as some templates have it.

    Only a `<think>` that begins the answer opens a chain of thought: later on it is ordinary text.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self._state: Literal["start", "reasoning", "after", "content"] = "reasoning" if opened else "start"
        self._held = ""
        self._fresh = True

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._held:
            before = self._held, self._state
            part = self._advance()
            if part and part.text:
                parts.append(part)
            if (self._held, self._state) == before:
                break
        return parts

    def finish(self) -> list[Part]:
        """What was held back."""
        held, self._held = self._held, ""
        if not held or self._state == "after":
            return []
        return [Part("reasoning" if self._state == "reasoning" else "content", held)]

    def _advance(self) -> Part | None:
        if self._state == "start":
            stripped = self._held.lstrip()
            if stripped.startswith(OPEN):
                self._state, self._held = "reasoning", stripped[len(OPEN) :]
            elif not OPEN.startswith(stripped):
                self._state = "content"
            return None
        if self._state == "reasoning":
            if self._fresh and self._held:
                self._fresh, self._held = False, self._held.removeprefix("\n")
            text, mark, rest = self._held.partition(CLOSE)
            if mark:
                self._state, self._held = "after", rest
                return Part("reasoning", text.rstrip("\n"))
            keep = _tail_to_hold(text)
            self._held = text[len(text) - keep :]
            return Part("reasoning", text[: len(text) - keep])
        if self._state == "after":
            self._held = self._held.lstrip("\n")
            if self._held:
                self._state = "content"
            return None
        text, self._held = self._held, ""
        return Part("content", text)


def _tail_to_hold(text: str) -> int:
    """Length of the end of `text` that may be the start of the closing tag, with newlines before it."""
    for n in range(min(len(text), len(CLOSE) - 1), 0, -1):
        if CLOSE.startswith(text[-n:]):
            return n + _newlines(text[:-n])
    return _newlines(text)


def _newlines(text: str) -> int:
    return len(text) - len(text.rstrip("\n"))
