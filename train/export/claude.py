"""Claude's export: the messages of each conversation in a list, which newer ones make a tree by
`parent_message_uuid`.

A message's text is in its `content` blocks, in older exports in `text` alone; a long paste in its attachments. The
text of an artifact is a part of the answer; edits of one, tools and thoughts are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from train.conversation import Conversation, Role
from train.export.report import Told, Unusable
from train.export.tree import way
from train.export.turns import Turns, at_key, fenced, moment, objects, replaced, text_at, word

NAME = "claude"
ROLES: dict[str, Role] = {"human": "user", "user": "user", "assistant": "assistant"}
LANGUAGES = {
    "text/html": "html",
    "image/svg+xml": "svg",
    "application/vnd.ant.react": "jsx",
    "application/vnd.ant.mermaid": "mermaid",
}
UNSUPPORTED = re.compile(r"```\nThis block is not supported on your current device yet\.\n```")
"""What `text` says in place of a block that is no text."""
ATTRIBUTE = re.compile(r'(\w{1,40})="([^"]{0,300})"')


def claims(value: Mapping[str, Any]) -> bool:
    """Whether an object is such a conversation."""
    return "chat_messages" in value


def read(value: Mapping[str, Any], told: Told) -> Conversation:
    """One conversation. Raises `Unusable`."""
    if not isinstance(value.get("chat_messages"), list):
        raise Unusable("there is no list of messages in `chat_messages`")
    turns = Turns()
    for message in _branch(value, told):
        sender = text_at(message, "sender")
        if sender not in ROLES:
            told.left("messages", f"of an unknown role: {word(sender)}")
            continue
        role = ROLES[sender]
        text = _text(message, told, turns)
        if role == "user":
            text = "\n\n".join(filter(None, (text, *_attached(message, told, turns))))
        flaw = "truncated" if message.get("truncated") is True and role == "assistant" else None
        turns.add(role, text, moment(message.get("created_at")), flaw)
    turns.model = text_at(value, "model")
    if value.get("is_starred"):
        turns.tags.add("starred")
    if value.get("project_uuid") or value.get("project"):
        turns.tags.add("project")
    return turns.conversation(
        NAME, value.get("uuid"), told, title=value.get("name"), at=moment(value.get("created_at"))
    )


def _branch(value: Mapping[str, Any], told: Told) -> list[Mapping[str, Any]]:
    """The messages that its reader saw last; all of them, where the export knows no parents."""
    messages = list(objects(value["chat_messages"]))
    told.left("messages", "no object", len(value["chat_messages"]) - len(messages))
    by_id: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        by_id.setdefault(text_at(message, "uuid"), message)
    parents = {
        name: parent if (parent := text_at(message, "parent_message_uuid")) in by_id and parent != name else None
        for name, message in by_id.items()
    }
    if "" in by_id or not any(parents.values()):
        return messages
    if len(by_id) < len(messages):
        told.noticed("two messages with one id: the first was taken")
    found = way(
        parents,
        value.get("current_leaf_message_uuid"),
        lambda name: moment(by_id[name].get("created_at")),
        prefer="newest",
    )
    if found.circle:
        told.noticed("its messages go round in a circle: cut where they do")
    told.left("messages", "on other branches: regenerated or edited", len(messages) - len(found.nodes))
    return [by_id[name] for name in found.nodes]


def _text(message: Mapping[str, Any], told: Told, turns: Turns) -> str:
    blocks = message.get("content")
    texts = [text for block in objects(blocks) if (text := _block(block, told, turns)).strip()]
    if not texts and isinstance(blocks, str):
        texts = [blocks]
    if not texts:
        texts = [UNSUPPORTED.sub("", text_at(message, "text"))]
    text = "\n\n".join(texts)
    if "<ant" in text:
        # (Artifacts and thoughts of 2024 stand in the text.)
        text = replaced(text, "<antThinking>", "</antThinking>", lambda _: told.thoughts())
        text = replaced(text, "<antArtifact ", "</antArtifact>", lambda inside: _inline(inside, turns))
    return text


def _block(block: Mapping[str, Any], told: Told, turns: Turns) -> str:
    kind = text_at(block, "type")
    if kind == "text" or (not kind and text_at(block, "text")):
        return text_at(block, "text")
    if kind == "tool_use" and text_at(block, "name") == "artifacts":
        return _artifact(block.get("input"), told, turns)
    if kind in ("thinking", "redacted_thinking"):
        told.left("parts", "thoughts")
    elif kind == "tool_use":
        turns.tags.add("tools")
        told.left("parts", "a call of a tool")
    elif kind == "tool_result":
        # (Of an artifact it says nothing but that it was made.)
        if text_at(block, "name") != "artifacts":
            turns.tags.add("tools")
            told.left("parts", "what a tool said")
    elif kind == "image":
        turns.tags.add("images")
        told.left("parts", "an image")
    else:
        told.left("parts", f"of an unknown kind: {word(kind)}")
    return ""


def _artifact(given: object, told: Told, turns: Turns) -> str:
    turns.tags.add("artifacts")
    content = text_at(given, "content")
    if text_at(given, "command") in ("create", "rewrite", "") and content:
        return _shown(content, text_at(given, "type"), text_at(given, "language"))
    told.left("parts", "an edit of an artifact")
    return ""


def _inline(inside: str, turns: Turns) -> str:
    turns.tags.add("artifacts")
    about, _, content = inside.partition(">")
    attributes = dict(ATTRIBUTE.findall(about))
    return _shown(content, attributes.get("type", ""), attributes.get("language", ""))


def _shown(content: str, kind: str, language: str) -> str:
    return content if kind == "text/markdown" else fenced(content, language or LANGUAGES.get(kind, ""))


def _attached(message: Mapping[str, Any], told: Told, turns: Turns) -> list[str]:
    """The texts of attachments; what has none is told."""
    texts = []
    for one in objects(message.get("attachments")):
        turns.tags.add("attachments")
        content = text_at(one, "extracted_content")
        if content.strip():
            name = text_at(one, "file_name").strip()
            texts.append(f"{name}:\n{content}" if name else content)
        else:
            told.left("parts", "an attached file")
    seen = {text_at(one, "file_name") for one in objects(message.get("attachments"))}
    for key in ("files", "files_v2"):
        for one in objects(message.get(key)):
            if key == "files_v2" and at_key(message, "files"):
                continue  # The same ones once more.
            if text_at(one, "file_name") in seen:
                continue
            image = text_at(one, "file_kind") == "image"
            turns.tags.add("images" if image else "attachments")
            told.left("parts", "an image" if image else "an attached file")
    return texts
