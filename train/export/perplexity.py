"""Perplexity: the data that it sends on request, and what people save of its threads.

| which | where the turns are |
| --- | --- |
| data request | `{"conversations": [{"context_title", "entries": [{"query", "answer", "query_status"}]}]}` |
| a thread, as its page loads it | `{"entries": [{"query_str", "blocks": [{"markdown_block": {"answer"}}]}]}` |
| a thread, saved by an extension | `{"metadata": {"thread_title"}, "conversations": [{"query", "answer"}]}` |
| threads, saved by another | `{"threads": [{"title", "messages": [{"role", "content"}]}]}` |

Marks of sources ([1][2]) are taken out of the text, but not out of code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from train.conversation import Conversation
from train.export.report import Told, Unusable
from train.export.turns import Turns, at_key, moment, objects, text_at, word

NAME = "perplexity"
CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]{1,500}`)", re.DOTALL)
MARKS = re.compile(r" ?(?:\[\d{1,3}\])+(?!\()")
WHOLE = frozenset({"", "completed", "success", "done"})


def claims(value: Mapping[str, Any]) -> bool:
    """Whether an object is such a thread."""
    return any(
        text_at(turn, "query") or text_at(turn, "query_str") or ("query" in turn and "answer" in turn)
        for turn in _entries(value)[:3]
    )


def read(value: Mapping[str, Any], told: Told) -> Conversation:
    """One thread. Raises `Unusable`."""
    turns = Turns()
    about = at_key(value, "metadata") or at_key(value, "thread_metadata")
    entries = _entries(value)
    if entries:
        for entry in entries:
            _read_entry(entry, turns, told)
    else:
        _read_messages(value, turns, told)
    first: Mapping[str, Any] = entries[0] if entries else {}
    named = (text_at(value, key) for key in ("context_uuid", "thread_id", "uuid", "id"))
    identity = next(filter(None, named), "") or text_at(about, "thread_id") or text_at(first, "context_uuid")
    titles = (text_at(value, key) for key in ("context_title", "title", "thread_title"))
    title = next(filter(None, titles), "") or text_at(about, "thread_title") or text_at(about, "title")
    began = (at_key(about, "thread_created_at"), at_key(about, "created_at"), value.get("created_at"))
    return turns.conversation(
        NAME,
        identity,
        told,
        title=title or text_at(first, "thread_title"),
        at=next(filter(None, map(moment, began)), None),
    )


def _entries(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(objects(value.get("entries"))) or list(objects(value.get("conversations")))


def _read_entry(entry: Mapping[str, Any], turns: Turns, told: Told) -> None:
    dates = (entry.get(key) for key in ("entry_created_datetime", "created_at", "timestamp"))
    at = next(filter(None, map(moment, dates)), None)
    answer = text_at(entry, "answer") or _from_blocks(entry)
    status = (text_at(entry, "query_status") or text_at(entry, "status")).lower()
    for _ in objects(entry.get("attachments")):
        told.left("parts", "an attached file")
    turns.add("user", text_at(entry, "query") or text_at(entry, "query_str"), at)
    turns.add("assistant", _unmarked(answer, told), at, None if status in WHOLE else "error")
    turns.model = text_at(entry, "display_model") or text_at(entry, "model") or turns.model


def _from_blocks(entry: Mapping[str, Any]) -> str:
    for block in objects(entry.get("blocks")):
        whole = text_at(block, "markdown_block", "answer")
        chunks = at_key(block, "markdown_block", "chunks")
        if whole:
            return whole
        if isinstance(chunks, list):
            return "".join(chunk for chunk in chunks if isinstance(chunk, str))
    return ""


def _read_messages(value: Mapping[str, Any], turns: Turns, told: Told) -> None:
    if not isinstance(value.get("messages"), list):
        raise Unusable("there are no turns in it")
    for message in objects(value["messages"]):
        role = text_at(message, "role")
        at = moment(message.get("created_at"))
        if role == "assistant":
            turns.add("assistant", _unmarked(text_at(message, "content"), told), at)
        elif role == "user":
            turns.add("user", text_at(message, "content"), at)
        else:
            told.left("messages", f"of an unknown role: {word(role)}")
    turns.model = text_at(value, "model")


def _unmarked(text: str, told: Told) -> str:
    pieces = CODE.split(text)
    # (Every second piece is code.)
    for place in range(0, len(pieces), 2):
        pieces[place], count = MARKS.subn("", pieces[place])
        told.left("parts", "a mark of a source", count)
    return "".join(pieces)
