"""ChatGPT's export: a tree of messages for each conversation (`mapping`), and where its reader was
(`current_node`).

Nobody documents it; what is read here was seen in exports from 2023 to 2026. What was said to and by tools, hidden
messages and thoughts are left out: a model without these tools would learn to make their results up. Such a
conversation has the tag `tools`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from train.conversation import Conversation, Rating
from train.export.report import Told, Unusable
from train.export.tree import Way, parents_of, way
from train.export.turns import Turns, at_key, fenced, moment, objects, text_at, word

NAME = "chatgpt"
THOUGHTS = frozenset({"thoughts", "reasoning_recap"})
CONTEXT = frozenset({"user_editable_context", "model_editable_context"})
RUN_RESULTS = frozenset({"execution_output"})
NOT_WHOLE = frozenset({"in_progress", "finished_partial_completion"})
STOPPED = frozenset({"max_tokens", "interrupted"})

CITED = re.compile(" ?(?:\ue200[^\ue200\ue201]{0,4000}\ue201|【\\d{1,6}[†:][^【】]{0,300}】)")
"""Marks that the page turns into links: from 2025 on, and before."""


def claims(value: Mapping[str, Any]) -> bool:
    """Whether an object is such a conversation."""
    return "mapping" in value and ("current_node" in value or "create_time" in value or "title" in value)


def read(value: Mapping[str, Any], told: Told) -> Conversation:
    """One conversation. Raises `Unusable`."""
    nodes = value.get("mapping")
    if not isinstance(nodes, dict) or not nodes:
        raise Unusable("there is no tree of messages in `mapping`")
    found = way(parents_of(nodes), value.get("current_node"), lambda node: _written(nodes[node]))
    _tell(found, told)
    turns = Turns()
    rating: Rating | None = None
    asked = False
    for name in found.nodes:
        message = at_key(nodes[name], "message")
        if not isinstance(message, Mapping):
            continue
        said = told.ratings.get(name) or told.ratings.get(text_at(message, "id"))
        _read_message(message, turns, told, said)
        # (An answer may be several messages, and what comes after the last answer is left.)
        if text_at(message, "author", "role") == "user":
            asked = True
            continue
        rating = said or (None if asked else rating)
        asked = False
    on_way = set(found.nodes)
    others = sum(
        isinstance(at_key(node, "message"), Mapping) for name, node in nodes.items() if name not in on_way
    )
    told.left("messages", "on other branches: regenerated or edited", others)
    for tag, field in (
        ("archived", "is_archived"),
        ("starred", "is_starred"),
        ("gpt", "gizmo_id"),
        ("voice", "voice"),
    ):
        if value.get(field):
            turns.tags.add(tag)
    turns.model = turns.model or text_at(value, "default_model_slug")
    return turns.conversation(
        NAME,
        value.get("conversation_id") or value.get("id"),
        told,
        title=value.get("title"),
        at=moment(value.get("create_time")),
        rating=rating,
    )


def read_ratings(value: object) -> dict[str, Rating]:
    """`message_feedback.json`: what was thought of messages, by their ids."""
    ratings: dict[str, Rating] = {}
    for one in objects(value):
        said = text_at(one, "rating").replace("_", "").lower()
        name = text_at(one, "message_id") or text_at(one, "id")
        if name and said in ("thumbsup", "thumbsdown"):
            ratings[name] = "up" if said == "thumbsup" else "down"
    return ratings


def _written(node: object) -> float | None:
    return moment(at_key(node, "message", "create_time"))


def _tell(found: Way, told: Told) -> None:
    if found.guessed:
        told.noticed("`current_node` is missing or names no message: the deepest branch was taken")
    if found.cut:
        told.noticed("its beginning is missing: a message's parent is not there")
    if found.circle:
        told.noticed("its messages go round in a circle: cut where they do")


def _read_message(message: Mapping[str, Any], turns: Turns, told: Told, rating: Rating | None) -> None:
    role, kind = text_at(message, "author", "role"), text_at(message, "content", "content_type")
    why = _not_for_eyes(message, role, kind)
    if why is not None:
        if _has_something(message):
            told.left("messages", why)
        return
    at, flaw = moment(message.get("create_time")), _flaw(message)
    if role == "user":
        turns.add("user", _text(message, told, turns), at)
    elif role == "assistant":
        to = text_at(message, "recipient")
        if to in ("", "all"):
            turns.add("assistant", _text(message, told, turns), at, flaw, rating)
        else:
            turns.add("assistant", _for_tool(to, message, told, turns), at, flaw, rating)
        turns.model = text_at(message, "metadata", "model_slug") or turns.model
    elif role == "tool":
        turns.tags.add("tools")
        _text(message, told, turns)
        told.left("messages", "what the code interpreter said" if kind in RUN_RESULTS else "what a tool said")
    elif _has_something(message):
        told.left("messages", "of the system" if role == "system" else f"of an unknown role: {word(role)}")


def _not_for_eyes(message: Mapping[str, Any], role: str, kind: str) -> str | None:
    """Why its reader never saw it as a part of the conversation; None: they did."""
    if kind in CONTEXT or at_key(message, "metadata", "is_user_system_message") is True:
        return "custom instructions and memory"
    if kind in THOUGHTS or message.get("channel") == "analysis":
        return "thoughts"
    if at_key(message, "metadata", "is_thinking_preamble_message") is True:
        return "thoughts"
    if kind == "system_error":
        return "a tool's error"
    if at_key(message, "metadata", "is_visually_hidden_from_conversation") is True:
        return "hidden"
    return "hidden" if message.get("weight") == 0 and role != "tool" else None


def _flaw(message: Mapping[str, Any]) -> str | None:
    if text_at(message, "status") in NOT_WHOLE:
        return "truncated"
    return "truncated" if text_at(message, "metadata", "finish_details", "type") in STOPPED else None


def _has_something(message: Mapping[str, Any]) -> bool:
    """Every conversation begins with empty messages of the system, which nobody misses."""
    content = message.get("content")
    if not isinstance(content, Mapping):
        return content is not None
    parts = content.get("parts")
    if isinstance(parts, list):
        return any(part for part in parts)
    return any(value for key, value in content.items() if key != "content_type")


def _for_tool(to: str, message: Mapping[str, Any], told: Told, turns: Turns) -> str:
    """What an assistant says to a tool is left out, but for a canvas' text, which is the answer."""
    if to.startswith("canmore.create"):
        turns.tags.add("canvas")
        document = _json(_raw(message))
        content = text_at(document, "content")
        if content:
            kind = text_at(document, "type")
            return fenced(content, kind.removeprefix("code/")) if kind.startswith("code/") else content
    turns.tags.add("tools")
    if to.startswith("canmore."):
        told.left("messages", "an edit of a canvas")
    else:
        told.left("messages", "code for the code interpreter" if to == "python" else "a call of a tool")
    return ""


def _text(message: Mapping[str, Any], told: Told, turns: Turns) -> str:
    """What can be read of a message; the rest is told."""
    content = message.get("content")
    kind = text_at(content, "content_type")
    for attached in objects(at_key(message, "metadata", "attachments")):
        if text_at(attached, "mime_type").startswith("image/"):
            continue  # (It is among the parts.)
        turns.tags.add("attachments")
        told.left("parts", "an attached file")
    parts = at_key(content, "parts")
    if isinstance(parts, list):
        text = "\n".join(filter(None, (_part(part, told, turns) for part in parts)))
    else:
        text = text_at(content, "text") or text_at(content, "result")
        if not text and content is not None:
            told.left("messages", f"of an unknown kind: {word(kind or content)}")
    if kind == "code" and text.strip():
        text = fenced(text, text_at(content, "language").replace("unknown", ""))
    return _uncited(text, told)


def _raw(message: Mapping[str, Any]) -> str:
    parts = at_key(message, "content", "parts")
    if isinstance(parts, list):
        return "".join(part for part in parts if isinstance(part, str))
    return text_at(message, "content", "text")


def _part(part: object, told: Told, turns: Turns) -> str:
    if isinstance(part, str) or part is None:
        return part or ""
    kind = text_at(part, "content_type") or text_at(part, "type")
    if text_at(part, "text"):
        if "audio" in kind:
            turns.tags.add("voice")
        return text_at(part, "text")
    if "image" in kind:
        turns.tags.add("images")
        told.left("parts", "an image")
    elif "audio" in kind or "video" in kind:
        turns.tags.add("voice")
        told.left("parts", "a recording")
    else:
        told.left("parts", f"of an unknown kind: {word(kind or part)}")
    return ""


def _uncited(text: str, told: Told) -> str:
    if "\ue200" not in text and "【" not in text:
        return text
    text, count = CITED.subn("", text)
    told.left("parts", "a mark of a source", count)
    return text


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
