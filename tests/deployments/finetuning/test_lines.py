"""Files to learn from: what is taken, what is refused, and where it says that it is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.finetuning.lines import MOST_LINE_BYTES, BadLine, copy, look, parse
from train.conversation import read_conversations

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}


def bytes_of(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_openai_s_chats_and_preferences_are_taken(tmp_path: Path) -> None:
    content = bytes_of(CHAT, PAIR) + b"\n"
    looked = look(io.BytesIO(content))
    assert (looked.lines, looked.bytes) == (2, len(content))
    (tmp_path / "in.jsonl").write_bytes(content)
    copy(tmp_path / "in.jsonl", tmp_path / "out" / "train.jsonl")
    chat, pair = read_conversations(tmp_path / "out" / "train.jsonl")
    assert [message.content for message in chat.messages] == ["Hi", "Hello"]
    assert (pair.messages[-1].content, pair.rejected) == ("Hello", "What?")


def test_our_own_form_is_taken_whole() -> None:
    own = {**CHAT, "id": "x", "rating": "down", "at": 3, "rejected": "No", "unknown": 1, "title": 7}
    assert parse(json.dumps(own).encode(), 1) == {
        name: own[name] for name in own if name not in ("unknown", "title")
    }


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi", **fields}, CHAT["messages"][1]]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("[]", "an object with `messages`"),
        ({}, "messages: a list of messages is missing"),
        ({"messages": [1]}, "messages.0: an object"),
        (message(role="developer"), "messages.0.role: one of system, user, assistant, tool"),
        (message(content=None), "messages.0.content: a text"),
        (message(content=[{"type": "text", "text": "Hi"}]), "messages.0.content: a text"),
        (message(weight=2), "messages.0.weight"),
        (message(weight=True), "messages.0.weight"),
        (message(name=1), "messages.0.name"),
        ({"messages": CHAT["messages"][:1]}, "no answer of the assistant's"),
        ({**CHAT, "rating": "so so"}, "rating: up or down"),
        ({**CHAT, "rejected": 3}, "rejected: a text"),
        ({**PAIR, "input": None}, "input.messages"),
        ({**PAIR, "preferred_output": CHAT["messages"]}, "preferred_output: one message"),
        ({**PAIR, "non_preferred_output": []}, "non_preferred_output: a list"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_field(line: Any, said: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(BadLine) as bad:
        look(io.BytesIO(bytes_of(CHAT) + text.encode() + b"\n"))
    assert str(bad.value).startswith("line 2: ") and said in str(bad.value)


def test_an_empty_file_and_an_endless_line_are_refused() -> None:
    with pytest.raises(BadLine, match="no conversation"):
        look(io.BytesIO(b"\n \n"))
    with pytest.raises(BadLine, match="line 1: longer than 16 MiB"):
        look(io.BytesIO(b"x" * (MOST_LINE_BYTES + 1)))


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(content: bytes) -> None:
    try:
        look(io.BytesIO(content))
    except BadLine as bad:
        assert str(bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["assistant", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "rejected", "rating", "input", "id", "preferred_output"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_what_is_taken_train_reads_too(value: Any) -> None:
    from train.conversation import parse_conversation

    try:
        taken = parse(json.dumps(value).encode(), 1)
    except BadLine:
        return
    parse_conversation(json.dumps(taken).encode(), "line 1")
