"""A conversation as it is compared: what makes two of them the same although they are written differently."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from train.conversation import Conversation

SPACES = re.compile(r"\s+")
NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
CODE = re.compile(r"```[\s\S]*?(?:```|\Z)|`[^`\n]*`")


def plain(text: str) -> str:
    """One case, one kind of space, one form of each letter."""
    return SPACES.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def prose(text: str) -> str:
    """Without code."""
    return CODE.sub(" ", text)


def told(conversation: Conversation) -> str:
    """What was asked and answered, without the system prompt, which many share."""
    return "\n".join(m.content for m in conversation.messages if m.role in ("user", "assistant"))


def question(conversation: Conversation) -> str:
    """The first."""
    return plain(next((m.content for m in conversation.messages if m.role == "user"), ""))


def numbers(conversation: Conversation) -> frozenset[str]:
    """All that stand in it: two that differ in them say different things, however alike they look."""
    return frozenset(NUMBERS.findall(told(conversation)))


def same_words(conversation: Conversation) -> str:
    """A hash that two have in common whose turns (and, of pairs, whose rejected answers) are the same."""
    kept = tuple(
        message.model_copy(update={"content": plain(message.content)})
        for message in conversation.messages
        if message.role != "system"
    )
    digest = conversation.model_copy(update={"messages": kept}).digest()
    return hashlib.sha256(f"{digest} {plain(conversation.rejected or '')}".encode("utf-8", "replace")).hexdigest()
