"""What was decided of each conversation, by a step or by the owner, and why: one line each, and none is changed.

The owner's decisions are a file of their own while a review goes on. Each is on disk before the next is asked, so
that a review goes on where it was, whatever has ended it; an undo is a line too. The same input and the same
decisions give the same dataset.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.training import drop_half_line
from train.conversation import Conversation, DataError, Message

OWNER = "owner"
VerdictName = Literal["drop", "change", "accept", "reject", "edit", "tag", "undo"]


class Decision(BaseModel):
    """One line of `decisions.jsonl`."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(description="A step's name, or `owner`.")
    conversation: str = Field(description="Its id.")
    digest: str = Field(description="Of the conversation as it was read: of another the decision does not hold.")
    verdict: VerdictName
    reason: str = ""
    tags: tuple[str, ...] | None = Field(None, description="Of `tag`: all that it has from now on.")
    messages: tuple[Message, ...] | None = Field(None, description="Of `edit`: all turns as they are from now on.")
    rejected: str | None = Field(None, description="Of `edit`, of a pair: the worse answer.")
    at: float | None = Field(None, description="Unix time, seconds; not in a dataset, which has no clock.")


class DecisionLog:
    """The owner's decisions, in the order in which they were made. The one writer of its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = list(read_decisions(path)) if path.is_file() else []
        drop_half_line(path)

    def add(self, *decisions: Decision) -> None:
        """Append, on disk before this returns. Raises `OSError`."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        timed = [each.model_copy(update={"at": time.time()}) for each in decisions]
        lines = "".join(each.model_dump_json(exclude_none=True, exclude_defaults=True) + "\n" for each in timed)
        with open(
            os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._lines += timed

    def standing(self) -> list[Decision]:
        """Those that were not undone, in order."""
        kept: list[Decision] = []
        for each in self._lines:
            if each.verdict != "undo":
                kept.append(each)
            elif kept:
                kept.pop()
        return kept

    def undo(self) -> Decision | None:
        """Take back the last that stands; what it was, or None."""
        standing = self.standing()
        if not standing:
            return None
        last = standing[-1]
        self.add(
            last.model_copy(
                update={"verdict": "undo", "reason": "", "tags": None, "messages": None, "rejected": None}
            )
        )
        return last


class Standing:
    """The owner's decisions that hold for what was read: by conversation, the last of a kind counts."""

    def __init__(self, decisions: Sequence[Decision], read: Sequence[Conversation]) -> None:
        digests = {each.id: each.digest() for each in read}
        mine = [each for each in decisions if each.by == OWNER and each.verdict != "undo"]
        self.held = [each for each in mine if digests.get(each.conversation) == each.digest]
        self.stale = len(mine) - len(self.held)
        self._verdicts = {each.conversation: each for each in self.held if each.verdict in ("accept", "reject")}
        self._edits = {each.conversation: each for each in self.held if each.verdict == "edit"}
        self._tags = {each.conversation: each.tags or () for each in self.held if each.verdict == "tag"}

    def verdict(self, conversation: str) -> Decision | None:
        """Accepted, rejected, or not looked at."""
        return self._verdicts.get(conversation)

    @property
    def accepted(self) -> frozenset[str]:
        """No step leaves these out."""
        return frozenset(name for name, each in self._verdicts.items() if each.verdict == "accept")

    def applied(self, conversation: Conversation) -> Conversation:
        """With what the owner has written in it, and his tags."""
        edit = self._edits.get(conversation.id)
        if edit is not None and edit.messages is not None:
            changed = {"messages": edit.messages, "rejected": edit.rejected}
            conversation = conversation.model_copy(update=changed)
        if conversation.id in self._tags:
            conversation = conversation.model_copy(update={"tags": self._tags[conversation.id]})
        return conversation


def read_decisions(path: Path) -> Iterator[Decision]:
    """Those of a file; a last line without its end is not there yet. Raises `DataError`, `OSError`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Decision.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                field = ".".join(str(part) for part in first["loc"]) or "the whole"
                raise DataError(f"{path.name}, line {number}: {field}: {first['msg']}") from None
