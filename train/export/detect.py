"""Which format a file is, by its first object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from train.conversation import Conversation
from train.export import chatgpt, claude, ledger, open_webui, perplexity, plain
from train.export.report import Told

CONTAINERS = ("conversations", "threads", "chats", "data", "items")
"""Under which an object may hold all conversations of a file."""


@dataclass(frozen=True)
class Format:
    """A reader. `claims`: whether an object is a conversation of this form. `read` raises `Unusable`."""

    name: str
    claims: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Told], Conversation]


FORMATS = {
    one.name: one
    for one in (
        Format(chatgpt.NAME, chatgpt.claims, chatgpt.read),
        Format(claude.NAME, claude.claims, claude.read),
        Format(open_webui.NAME, open_webui.claims, open_webui.read),
        Format(ledger.NAME, ledger.claims, ledger.read),
        Format(plain.SHAREGPT, plain.is_sharegpt, plain.read_sharegpt),
        Format(perplexity.NAME, perplexity.claims, perplexity.read),
        Format(plain.MESSAGES, plain.is_messages, plain.read_messages),
        Format(plain.ALPACA, plain.is_alpaca, plain.read_alpaca),
        Format(plain.PAIRS, plain.is_pair, plain.read_pair),
    )
}
"""By name, in the order in which they are asked whether an object is theirs."""


THREADS = Format(perplexity.NAME, plain.is_messages, perplexity.read)
"""Threads that somebody saved with all their messages, which stand under `threads`."""


def format_of(value: object) -> Format | None:
    """Whose conversation an object is; None: nobody's here."""
    if not isinstance(value, Mapping):
        return None
    return next((one for one in FORMATS.values() if one.claims(value)), None)
