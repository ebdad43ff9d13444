"""Whether a file can be learned from, line by line: OpenAI's formats for chats and for preferences, and our own.

What a line means is what `train` reads (`Conversation`): this only looks, and makes OpenAI's preferences pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO

ROLES = ("system", "user", "assistant", "tool")
KEPT: dict[str, type | UnionType] = {"id": str, "source": str, "title": str, "model": str, "at": int | float}
"""Of our own form, beside the messages; what is of another kind is left out."""
MOST_LINE_BYTES = 16 << 20
MOST_MESSAGES = 4096


class BadLine(ValueError):
    """A line that cannot be learned from; says which, which field, and what is wrong with it."""


@dataclass(frozen=True)
class Looked:
    """A file that is well."""

    bytes: int
    lines: int
    sha256: str


def look(file: BinaryIO) -> Looked:
    """Read the whole of it. Raises `BadLine` at the first line that is none."""
    digest, size, count = hashlib.sha256(), 0, 0
    for number, line in _lines(file):
        digest.update(line)
        size += len(line)
        if line.strip():
            parse(line, number)
            count += 1
    if not count:
        raise BadLine("The file holds no conversation.")
    return Looked(size, count, digest.hexdigest())


def copy(source: Path, target: Path) -> None:
    """Write a file that was looked at in the form that `train` reads. Raises `OSError`, or `BadLine`."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with source.open("rb") as file, target.open("w", encoding="utf-8") as out:
        for number, line in _lines(file):
            if line.strip():
                # (Lone surrogates, which some exports hold, are no UTF-8.)
                out.write(json.dumps(parse(line, number), ensure_ascii=True) + "\n")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            raise BadLine(f"line {number}: longer than {MOST_LINE_BYTES >> 20} MiB")
        yield number, line


def parse(line: bytes, number: int) -> dict[str, Any]:
    """A line as a conversation: `messages`, for a pair `rejected` (a worse last answer), and what else is known of
    it. Raises `BadLine`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"line {number}: no JSON: {error}") from None
    try:
        return _conversation(value)
    except _Wrong as wrong:
        raise BadLine(f"line {number}: {wrong}") from None


class _Wrong(Exception):
    """Says the field and what is wrong with it."""


def _conversation(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong("a conversation is an object with `messages`")
    if "preferred_output" in value or "non_preferred_output" in value:
        return _pair(value)
    messages = _messages(value.get("messages"), "messages")
    if not any(message["role"] == "assistant" and message.get("weight") != 0 for message in messages):
        raise _Wrong("messages: no answer of the assistant's to learn from")
    made: dict[str, Any] = {name: value[name] for name, kind in KEPT.items() if isinstance(value.get(name), kind)}
    made["messages"] = messages
    rejected = value.get("rejected")
    if rejected is not None:
        if not isinstance(rejected, str) or messages[-1]["role"] != "assistant":
            raise _Wrong("rejected: a text, where the last message is the assistant's")
        made["rejected"] = rejected
    rating = value.get("rating")
    if rating is not None:
        if rating not in ("up", "down"):
            raise _Wrong("rating: up or down")
        made["rating"] = rating
    return made


def _pair(value: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's preferences: a conversation, and two answers to it."""
    asked = value.get("input")
    messages = _messages(asked.get("messages") if isinstance(asked, dict) else None, "input.messages")
    better, worse = (_answer(value.get(name), name) for name in ("preferred_output", "non_preferred_output"))
    return {"messages": [*messages, {"role": "assistant", "content": better}], "rejected": worse}


def _answer(value: Any, where: str) -> str:
    messages = _messages(value, where)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise _Wrong(f"{where}: one message, of the assistant's")
    return str(messages[0]["content"])


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise _Wrong(f"{where}: a list of messages is missing")
    if len(value) > MOST_MESSAGES:
        raise _Wrong(f"{where}: {len(value)} messages; at most {MOST_MESSAGES} are read")
    return [_message(one, f"{where}.{n}") for n, one in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{where}: an object with `role` and `content`")
    if value.get("role") not in ROLES:
        raise _Wrong(f"{where}.role: one of {', '.join(ROLES)}")
    if not isinstance(value.get("content"), str):
        raise _Wrong(f"{where}.content: a text (of tool calls and pictures nothing is learned)")
    weight = value.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise _Wrong(f"{where}.weight: 0 (not learned from) to 1")
    kept = ("role", "content", "name", "weight")
    if not isinstance(value.get("name"), str | None):
        raise _Wrong(f"{where}.name: a text")
    return {name: value[name] for name in kept if value.get(name) is not None}
