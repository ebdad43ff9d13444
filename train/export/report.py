"""What an import took, what it left, and why: counts by reason, with the first examples of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from train.conversation import Conversation, Rating

MOST_EXAMPLES = 3
MOST_REASONS = 200
"""Of one kind. (A reason may name what a file calls a thing, and a file may call it anything.)"""
OTHER_REASONS = "for other reasons"
TITLE_CHARS = 60

Kind = Literal["files", "conversations", "messages", "parts"]
KINDS: tuple[Kind, ...] = ("files", "conversations", "messages", "parts")


class Unusable(Exception):
    """A conversation that is not taken: why, in words that many can share."""


@dataclass
class Tally:
    """How often something was so, and where first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str, count: int = 1) -> None:
        self.count += count
        if len(self.examples) < MOST_EXAMPLES and example not in self.examples:
            self.examples.append(example)


class Told:
    """What a reader says of one conversation while it reads it. Counts once the conversation is taken."""

    def __init__(self, ratings: Mapping[str, Rating] | None = None) -> None:
        """`ratings`: by message, what the export says in a file of its own."""
        self.ratings = ratings or {}
        self.left_out: Counter[tuple[Kind, str]] = Counter()
        self.seen: Counter[str] = Counter()

    def left(self, kind: Kind, reason: str, count: int = 1) -> None:
        """A part of it is not taken."""
        if count > 0:
            self.left_out[kind, reason] += count

    def thoughts(self) -> str:
        """What stands in place of a model's thoughts: nothing."""
        self.left("parts", "thoughts")
        return ""

    def noticed(self, what: str) -> None:
        """Nothing is left out, but somebody may want to know."""
        self.seen[what] += 1


@dataclass
class ImportedFile:
    name: str
    format: str
    bytes: int
    conversations: int = 0


@dataclass
class Report:
    """Of one import."""

    files: list[ImportedFile] = field(default_factory=list)
    conversations: int = 0
    messages: int = 0
    characters: int = 0
    left: dict[Kind, dict[str, Tally]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    noticed: dict[str, Tally] = field(default_factory=dict)

    def leave(self, kind: Kind, reason: str, where: str, count: int = 1) -> None:
        """Something is not taken, at `where`."""
        _of(self.left[kind], reason).add(where, count)

    def take(self, conversation: Conversation, told: Told, where: str) -> None:
        """A conversation is taken, and with it counts what was said of it."""
        self.conversations += 1
        self.messages += len(conversation.messages)
        self.characters += sum(len(message.content) for message in conversation.messages)
        for (kind, reason), count in told.left_out.items():
            self.leave(kind, reason, where, count)
        for what, count in told.seen.items():
            _of(self.noticed, what).add(where, count)

    def lines(self) -> Iterable[tuple[str, str, Tally]]:
        """What was left and noticed: its kind, why, and how often; the most frequent first."""
        for kind in KINDS:
            yield from ((kind, reason, tally) for reason, tally in _sorted(self.left[kind]))
        yield from (("noticed", what, tally) for what, tally in _sorted(self.noticed))

    def as_dict(self) -> dict[str, Any]:
        """JSON types. The same import says the same."""
        return {
            "files": [vars(file) for file in self.files],
            "taken": {
                "conversations": self.conversations,
                "messages": self.messages,
                "characters": self.characters,
            },
            "left": {kind: {reason: vars(tally) for reason, tally in _sorted(self.left[kind])} for kind in KINDS},
            "noticed": {what: vars(tally) for what, tally in _sorted(self.noticed)},
        }


def named(conversation_title: object, conversation_id: object, number: int, file: str) -> str:
    """How a conversation is called in a report."""
    title = next(
        (one for one in (conversation_title, conversation_id) if isinstance(one, str) and one.strip()), ""
    )
    short = " ".join(title.split())
    short = short if len(short) <= TITLE_CHARS else short[: TITLE_CHARS - 1] + "…"
    return f"no. {number} of {file}" + (f" ({short!r})" if short else "")


def _of(tallies: dict[str, Tally], reason: str) -> Tally:
    known = reason in tallies or len(tallies) < MOST_REASONS
    return tallies.setdefault(reason if known else OTHER_REASONS, Tally())


def _sorted(tallies: dict[str, Tally]) -> list[tuple[str, Tally]]:
    return sorted(tallies.items(), key=lambda one: (-one[1].count, one[0]))
