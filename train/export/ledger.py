"""Our own Ledger's examples: answers that somebody rated or corrected (`GET /v1/examples`, a row a line).

A correction is the better answer of a pair, and what was said the worse one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.conversation import Conversation, Message, Rating
from train.export.plain import ROLES
from train.export.report import Told, Unusable
from train.export.turns import clean, finished, moment, named_id, objects, text_at, word

NAME = "ledger"


def claims(value: Mapping[str, Any]) -> bool:
    """Whether an object is such a row."""
    return "request_id" in value and "answer" in value and "messages" in value


def read(value: Mapping[str, Any], told: Told) -> Conversation:
    """One row. Raises `Unusable`."""
    messages = []
    for one in objects(value.get("messages")):
        role = text_at(one, "role")
        if role not in ROLES:
            told.left("messages", f"of an unknown role: {word(role)}")
        elif text_at(one, "content").strip():
            messages.append(Message(role=ROLES[role], content=clean(text_at(one, "content"))))
    answer, correction = clean(text_at(value, "answer")).strip(), clean(text_at(value, "correction")).strip()
    if not (correction or answer):
        raise Unusable("nobody answered")
    rating: Rating = "up" if correction or value.get("rating") == "up" else "down"
    at = moment(value.get("at"))
    conversation = Conversation(
        id=named_id(NAME, value.get("request_id")),
        source=NAME,
        at=at,
        model=clean(text_at(value, "variant")),
        rating=rating,
        tags=("corrected",) if correction else (),
        messages=(*messages, Message(role="assistant", content=correction or answer, at=at)),
        rejected=answer if correction and answer and answer != correction else None,
    )
    return finished(conversation, told)
