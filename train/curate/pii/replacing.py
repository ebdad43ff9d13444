"""Conversations without personal information: found, replaced, and looked for again until nothing is found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from train.conversation import Conversation
from train.curate.pii.finder import Finder
from train.curate.pii.found import Found, without_overlaps
from train.curate.pii.names import known_names, spread
from train.curate.pii.pseudonyms import POOL, TAG, Pseudonyms

ROUNDS = 4
"""A name that is gone changes what the model sees in the rest. Mostly the second round finds nothing more; so what
comes out is what comes out of it again."""
AT_ONCE = 32
"""Conversations; their texts are read by the model together."""


@dataclass
class Replaced:
    """A conversation after it, and how much was replaced, by kind."""

    conversation: Conversation
    counts: Counter[str] = field(default_factory=Counter)


class Replacer:
    """Replaces what a finder finds."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def replace(self, conversations: Sequence[Conversation]) -> Iterator[Replaced]:
        """Each of them, in order."""
        for first in range(0, len(conversations), AT_ONCE):
            works = [_Work(each, self._finder.always) for each in conversations[first : first + AT_ONCE]]
            open_ones = works
            for _ in range(ROUNDS):
                found = iter(self._finder.find([text for work in open_ones for text in work.texts]))
                open_ones = [work for work in open_ones if work.take([next(found) for _ in work.texts])]
                if not open_ones:
                    break
            yield from (work.done() for work in works)


class _Work:
    """One conversation: its texts (title, turns, the rejected answer) and what stands in for what."""

    def __init__(self, conversation: Conversation, always: frozenset[str]) -> None:
        self._conversation = conversation
        self._always = always
        names = [message.name or "" for message in conversation.messages]
        self.texts = [
            conversation.title,
            *(m.content for m in conversation.messages),
            conversation.rejected or "",
            *names,
        ]
        whole = "\n".join(self.texts)
        unwanted = {word for name in always for word in name.split()}
        words = set(re.findall(r"\w+", whole)) | unwanted
        self._pseudonyms = Pseudonyms(
            lambda text: text in words or (not text.isalnum() and text in whole),
            POOL - unwanted if TAG in conversation.tags else frozenset(),
        )
        self._counts: Counter[str] = Counter()

    def take(self, found: Sequence[Sequence[Found]]) -> bool:
        """Replace it, and the same elsewhere. Whether anything was."""
        found = [[each for each in one if not self._is_ours(each)] for one in found]
        everywhere = [each for one in found for each in one]
        if not everywhere:
            return False
        names = spread(each.text for each in everywhere if each.kind == "name")
        values = {each.text: each for each in everywhere if each.kind != "name"}
        for at, text in enumerate(self.texts):
            also = [each for each in known_names(text, names) if not self._is_ours(each)]
            self.texts[at] = self._replaced(text, without_overlaps([*found[at], *_again(text, values), *also]))
        return True

    def _is_ours(self, found: Found) -> bool:
        return found.kind == "name" and found.text not in self._always and self._pseudonyms.are(found.text)

    def _replaced(self, text: str, found: Sequence[Found]) -> str:
        told, at = [], 0
        for each in found:
            told += [text[at : each.start], self._pseudonyms.of(each)]
            at = each.end
            self._counts[each.kind] += 1
        return "".join([*told, text[at:]])

    def done(self) -> Replaced:
        before = self._conversation
        turns = len(before.messages)
        messages = tuple(
            message.model_copy(update={"content": text, "name": name or None})
            for message, text, name in zip(
                before.messages, self.texts[1 : 1 + turns], self.texts[2 + turns :], strict=True
            )
        )
        rejected = self.texts[1 + turns] if before.rejected is not None else None
        tags = (*before.tags, TAG) if self._pseudonyms.names and TAG not in before.tags else before.tags
        changed = {"tags": tags, "title": self.texts[0], "messages": messages, "rejected": rejected}
        return Replaced(before.model_copy(update=changed), self._counts)


def _again(text: str, values: dict[str, Found]) -> Iterator[Found]:
    """Where the same stands without what told it: a number that was said to be a phone's, a password."""
    if values:
        told = sorted(values, key=lambda value: (-len(value), value))
        for match in re.finditer(rf"(?<!\w)(?:{'|'.join(map(re.escape, told))})(?!\w)", text):
            yield Found(match.start(), match.end(), values[match[0]].kind, match[0])
