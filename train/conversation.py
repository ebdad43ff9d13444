"""A conversation as every step of the pipeline reads and writes it: one JSON object a line.

What OpenAI's fine-tuning files hold (`{"messages": [{"role", "content"}]}`) is such a conversation too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Role = Literal["system", "user", "assistant", "tool"]
Rating = Literal["up", "down"]
MOST_LINE_BYTES = 64 << 20
"""Of one conversation."""


class DataError(Exception):
    """Data that cannot be used: says where (file, line, field) and what to do."""


class Message(BaseModel):
    """One turn. Only text: what was left out of it (images, hidden thoughts) is told in the import's report."""

    model_config = ConfigDict(extra="ignore")

    role: Role
    content: str
    name: str | None = Field(None, description="Of the tool or person.")
    at: float | None = Field(None, description="Unix time, seconds; null: not known.")
    flaw: Literal["truncated", "error"] | None = Field(None, description="What its source says is wrong with it.")
    weight: float = Field(1.0, ge=0, le=1, description="0: not learned from (OpenAI's `weight`).")


class Conversation(BaseModel):
    """Turns from the first to the last. `id` is unique in a dataset, and the same at every import."""

    model_config = ConfigDict(extra="ignore")

    id: str = ""
    source: str = Field("", description="What it was imported from: chatgpt, claude, ledger, …")
    title: str = ""
    at: float | None = Field(None, description="Unix time of its begin, seconds; null: not known.")
    model: str = Field("", description="Who answered, as its source says.")
    rating: Rating | None = Field(None, description="What the owner said of its last answer.")
    tags: tuple[str, ...] = ()
    messages: tuple[Message, ...]
    rejected: str | None = Field(None, description="Of a pair for DPO: a worse last answer than the one here.")

    def digest(self) -> str:
        """SHA-256 of who said what."""
        told = json.dumps([[m.role, m.content] for m in self.messages], ensure_ascii=True)
        return hashlib.sha256(told.encode()).hexdigest()


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Those of a JSONL file. Raises `DataError` at the first line that is none, naming file, line and field."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise DataError(f"{path.name}, line {number}: longer than {MOST_LINE_BYTES >> 20} MiB")
            if line.strip():
                yield parse_conversation(line, f"{path.name}, line {number}")


def parse_conversation(line: bytes, where: str) -> Conversation:
    """Raises `DataError` that begins with `where` and names the field."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no JSON: {error}") from None
    try:
        conversation = Conversation.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(f"{where}: {field}: {first['msg']}") from None
    return conversation if conversation.id else conversation.model_copy(update={"id": conversation.digest()[:24]})


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Replace a JSONL file in one step; returns how many were written. Same conversations, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(path.name + ".new")
    count = 0
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        for conversation in conversations:
            told = conversation.model_dump(mode="json", exclude_defaults=True)
            # (Lone surrogates, which some exports hold, are no UTF-8.)
            file.write(json.dumps(told, ensure_ascii=True, sort_keys=True) + "\n")
            count += 1
    staged.replace(path)
    return count
