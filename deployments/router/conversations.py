"""Who has answered in a conversation before: its prefix is in that variant's memory, and so is its voice. Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from deployments.classifier.rules import text_of
from deployments.contract import ChatRequest, RequestContext

MOST = 10_000
READ_CHARS = 4000


@dataclass(frozen=True)
class Turn:
    """The last one of a conversation."""

    variant: str
    task: str | None


class Conversations:
    """The last `MOST` of them."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, Turn] = OrderedDict()

    def last(self, request: ChatRequest, context: RequestContext) -> Turn | None:
        """None at the beginning of one."""
        if not any(message.get("role") == "assistant" for message in request.messages):
            return None
        return self._turns.get(conversation_of(request, context))

    def answered(self, request: ChatRequest, context: RequestContext, turn: Turn) -> None:
        """Remember who answered."""
        name = conversation_of(request, context)
        self._turns[name] = turn
        self._turns.move_to_end(name)
        if len(self._turns) > MOST:
            self._turns.popitem(last=False)


def conversation_of(request: ChatRequest, context: RequestContext) -> str:
    """Its name: by its session, where the client names one, else by how it begins."""
    said = (message for message in request.messages if message.get("role") in ("system", "developer", "user"))
    begin = ""
    for message in said:
        begin += f"{message['role']}\0{text_of(message.get('content'))[:READ_CHARS]}\0"
        if message["role"] == "user":
            break
    named = context.session or begin
    return hashlib.blake2b(f"{context.key_id}\0{named}".encode("utf-8", "replace"), digest_size=16).hexdigest()
