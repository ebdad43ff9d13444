"""Data that was made for training: OpenAI's messages (and our own conversations, which are such), ShareGPT,
Alpaca, and pairs of a better and a worse answer. As JSON lines, or as one array.

What was made for training is taken as it is: turns are not joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from train.conversation import Conversation, Message, Role
from train.export.report import Told, Unusable
from train.export.turns import clean, finished, moment, named_id, objects, text_at, word

MESSAGES, SHAREGPT, ALPACA, PAIRS = "messages", "sharegpt", "alpaca", "pairs"
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
OWN = ("title", "at", "model", "rating", "tags", "rejected")
"""Fields of our own conversations, beside the messages."""


def is_messages(value: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation in OpenAI's form."""
    listed = value.get("messages")
    return isinstance(listed, list) and all(isinstance(one, Mapping) and "role" in one for one in listed[:3])


def read_messages(value: Mapping[str, Any], told: Told) -> Conversation:
    """One conversation. Raises `Unusable`."""
    source = text_at(value, "source") or MESSAGES
    own: dict[str, Any] = {name: value[name] for name in OWN if value.get(name) is not None}
    if "at" in own:
        own["at"] = moment(own["at"])
    # (Our own have an id that says where they are from.)
    ours = text_at(value, "id").startswith(f"{source}-")
    identity = text_at(value, "id") if ours else named_id(source, value.get("id"))
    if any(one.get("tool_calls") or one.get("function_call") for one in objects(value["messages"])):
        own["tags"] = sorted({*own.get("tags", ()), "tools"})
    return _made(source, identity, _said(objects(value["messages"]), "role", "content", told), told, **own)


def is_sharegpt(value: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation as ShareGPT's data sets have them."""
    listed = value.get("conversations", value.get("conversation"))
    return isinstance(listed, list) and any("from" in one and "value" in one for one in objects(listed[:3]))


def read_sharegpt(value: Mapping[str, Any], told: Told) -> Conversation:
    """One conversation. Raises `Unusable`."""
    listed = value.get("conversations", value.get("conversation"))
    system = text_at(value, "system")
    messages = [Message(role="system", content=clean(system))] if system.strip() else []
    messages += _said(objects(listed), "from", "value", told)
    return _made(SHAREGPT, named_id(SHAREGPT, value.get("id")), messages, told)


def is_alpaca(value: Mapping[str, Any]) -> bool:
    """Whether an object is a task and its answer: Alpaca's fields, or a prompt and its completion."""
    return ("instruction" in value and ("output" in value or "response" in value)) or (
        isinstance(value.get("prompt"), str) and ("completion" in value or "response" in value)
    )


def read_alpaca(value: Mapping[str, Any], told: Told) -> Conversation:
    """One task. Raises `Unusable`."""
    asked = text_at(value, "instruction") or text_at(value, "prompt")
    more = text_at(value, "input") or text_at(value, "context")
    answer = next(filter(None, (text_at(value, key) for key in ("output", "response", "completion"))), "")
    system = text_at(value, "system")
    texts: list[tuple[Role, str]] = [
        ("system", system),
        ("user", "\n\n".join(text.strip() for text in (asked, more) if text.strip())),
        ("assistant", answer.strip()),
    ]
    messages = [Message(role=role, content=clean(text)) for role, text in texts if text.strip()]
    return _made(ALPACA, named_id(ALPACA, value.get("id")), messages, told)


def is_pair(value: Mapping[str, Any]) -> bool:
    """Whether an object is a question with a better and a worse answer."""
    return "chosen" in value and "rejected" in value and "messages" not in value


def read_pair(value: Mapping[str, Any], told: Told) -> Conversation:
    """One pair. Raises `Unusable`. `prompt`: a text, or messages; the answers: texts, or messages whose last is
    the answer."""
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    messages = _turns(prompt, "user", told) + _turns(chosen, "assistant", told)
    worse = _turns(rejected, "assistant", told)
    if not worse or worse[-1].role != "assistant":
        raise Unusable("there is no worse answer in `rejected`")
    return _made(PAIRS, named_id(PAIRS, value.get("id")), messages, told, rejected=worse[-1].content)


def _turns(value: object, role: Role, told: Told) -> list[Message]:
    if isinstance(value, str):
        return [Message(role=role, content=clean(value))] if value.strip() else []
    return _said(objects(value), "role", "content", told)


def _said(listed: Any, who: str, what: str, told: Told) -> list[Message]:
    """Messages under either form's names."""
    messages = []
    for one in listed:
        name = text_at(one, who)
        if name not in ROLES:
            told.left("messages", f"of an unknown role: {word(one.get(who))}")
            continue
        text = _text(one.get(what), told)
        if not text.strip():
            told.left(
                "messages", "a call of a tool" if one.get("tool_calls") or one.get("function_call") else "empty"
            )
            continue
        weight = one.get("weight")
        messages.append(
            Message(
                role=ROLES[name],
                content=text,
                name=clean(text_at(one, "name")) or None,
                at=moment(one.get("at")),
                flaw=one["flaw"] if one.get("flaw") in ("truncated", "error") else None,
                weight=0.0 if weight == 0 else 1.0,
            )
        )
    return messages


def _text(content: object, told: Told) -> str:
    if isinstance(content, str):
        return clean(content)
    texts = []
    for part in objects(content):
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = text_at(part, "type")
            told.left("parts", "an image" if "image" in kind else f"of an unknown kind: {word(kind)}")
    return clean("\n".join(texts))


def _made(source: str, identity: object, messages: list[Message], told: Told, **own: Any) -> Conversation:
    try:
        conversation = Conversation.model_validate(
            {"id": identity or "", "source": source, "messages": messages, **own}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Unusable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return finished(conversation, told)
