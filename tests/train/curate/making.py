"""Conversations for tests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from train.conversation import Conversation, Message, write_conversations

WORDS = (
    "river engine garden letter window story people model cloud table bridge winter copper signal harbor lantern "
    "meadow ticket orchard canvas thunder marble pocket ladder forest island mirror velvet anchor blanket"
)


def talk(*texts: str, **more: Any) -> Conversation:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[at % 2], content=text) for at, text in enumerate(texts))  # type: ignore[arg-type]
    made = Conversation(messages=messages, **more)
    return made if made.id else made.model_copy(update={"id": made.digest()[:24]})


def chatter(count: int, seed: int = 1) -> list[Conversation]:
    """That have little in common."""
    r = random.Random(seed)
    words = WORDS.split()
    return [
        talk(
            f"Question {at}: what is the {r.choice(words)} of the {r.choice(words)} {r.choice(words)}?",
            " ".join(r.choice(words) for _ in range(30)).capitalize() + ".",
            id=f"c{at}",
        )
        for at in range(count)
    ]


def file_of(folder: Path, conversations: list[Conversation], name: str = "chats.jsonl") -> Path:
    write_conversations(folder / name, conversations)
    return folder / name
