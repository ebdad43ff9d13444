"""Open WebUI's export: a tree of messages for each chat (`history.messages`), and where its reader was
(`history.currentId`); in old ones a list.

What a model thought, searched and ran stands in the text of its answer, in `<details>`; that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from train.conversation import Conversation, Rating
from train.export.report import Told, Unusable
from train.export.tree import way
from train.export.turns import Turns, at_key, moment, objects, replaced, text_at, word

NAME = "open-webui"
DETAILS_TAGS = re.compile(r"<details\b|</details>")
TYPE = re.compile(r'<details\s{1,5}type="(\w{1,40})"')
REASONS = {"reasoning": "thoughts", "code_interpreter": "code for the code interpreter"}


def claims(value: Mapping[str, Any]) -> bool:
    """Whether an object is such a chat."""
    chat = value.get("chat") if isinstance(value.get("chat"), Mapping) else value
    return isinstance(at_key(chat, "history", "messages"), Mapping) or (
        isinstance(value.get("chat"), Mapping) and isinstance(at_key(value, "chat", "messages"), list)
    )


def read(value: Mapping[str, Any], told: Told) -> Conversation:
    """One chat. Raises `Unusable`."""
    chat = value["chat"] if isinstance(value.get("chat"), Mapping) else value
    turns = Turns()
    turns.add("system", text_at(chat, "params", "system") or text_at(chat, "system"))
    rating: Rating | None = None
    for message in _branch(chat, told):
        role = text_at(message, "role")
        at = moment(message.get("timestamp"))
        for one in objects(message.get("files")):
            image = text_at(one, "type") == "image"
            turns.tags.add("images" if image else "attachments")
            told.left("parts", "an image" if image else "an attached file")
        if role == "user":
            turns.add("user", text_at(message, "content"), at)
        elif role == "assistant":
            turns.add(
                "assistant",
                _said(text_at(message, "content"), told, turns),
                at,
                _flaw(message),
                rating := _rating(message),
            )
            turns.model = text_at(message, "model") or turns.model
        elif role == "system":
            turns.add("system", text_at(message, "content"), at)
        else:
            told.left("messages", f"of an unknown role: {word(role)}")
    if value.get("archived"):
        turns.tags.add("archived")
    dates = (value.get("created_at"), chat.get("timestamp"))
    return turns.conversation(
        NAME,
        value.get("id") or chat.get("id"),
        told,
        title=value.get("title") or chat.get("title"),
        at=next(filter(None, map(moment, dates)), None),
        rating=rating,
    )


def _branch(chat: Mapping[str, Any], told: Told) -> list[Mapping[str, Any]]:
    nodes = at_key(chat, "history", "messages")
    if not isinstance(nodes, Mapping) or not nodes:
        listed = list(objects(chat.get("messages")))
        if not listed:
            raise Unusable("there are no messages in it")
        return listed
    known = {name: node for name, node in nodes.items() if isinstance(node, Mapping)}
    told.left("messages", "no object", len(nodes) - len(known))
    parents = {
        name: parent if isinstance(parent := node.get("parentId"), str) and parent else None
        for name, node in known.items()
    }
    found = way(parents, at_key(chat, "history", "currentId"), lambda name: moment(known[name].get("timestamp")))
    if found.guessed:
        told.noticed("`currentId` is missing or names no message: the deepest branch was taken")
    if found.cut:
        told.noticed("its beginning is missing: a message's parent is not there")
    if found.circle:
        told.noticed("its messages go round in a circle: cut where they do")
    told.left("messages", "on other branches: regenerated or edited", len(known) - len(found.nodes))
    return [known[name] for name in found.nodes]


def _flaw(message: Mapping[str, Any]) -> str | None:
    if message.get("error"):
        return "error"
    return "truncated" if message.get("done") is False else None


def _rating(message: Mapping[str, Any]) -> Rating | None:
    said = at_key(message, "annotation", "rating")
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    return {"1": "up", "-1": "down"}.get(str(said))  # type: ignore[return-value]


def _said(text: str, told: Told, turns: Turns) -> str:
    """An answer without its typed details, which may hold others."""
    kept: list[str] = []
    depth = place = 0
    for tag in DETAILS_TAGS.finditer(text):
        if tag[0] != "<details":
            if depth == 1:
                place = tag.end()
            depth = max(0, depth - 1)
        elif depth:
            depth += 1
        elif kind := TYPE.match(text, tag.start()):
            kept.append(text[place : tag.start()])
            depth, place = 1, -1
            if kind[1] != "reasoning":
                turns.tags.add("tools")
            told.left("parts", REASONS.get(kind[1], "a call of a tool"))
    text = "".join([*kept, text[place:] if place >= 0 else ""])
    for name in ("think", "thinking"):
        text = replaced(text, f"<{name}>", f"</{name}>", lambda _: told.thoughts())
    return text
