"""Bodies: JSON that was right until something in it was changed, and bytes that never were.

What a variant would answer is made cheap, one token of the smallest, so that thousands can be sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from deployments.contract import ChatRequest, CompletionRequest
from tests.integration.conftest import SMALL
from tests.integration.hostile.case import request

CHEAP = {"model": SMALL, "max_tokens": 1, "max_completion_tokens": 1, "n": 1}


class Raw(str):
    """Text that stands in a document as it is."""


class Pairs(list[tuple[Any, Any]]):
    """An object whose keys may be there twice."""


NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1e-400",
    "-0",
    "01",
    "0.1e",
    "+1",
    "0x10",
    "1_000",
    ".5",
    "5.",
    "9223372036854775808",
    "-1",
    "1e308",
]
BROKEN = [
    "nul",
    "undefined",
    "'a'",
    '"abc',
    '"\\x"',
    '"\\ud8"',
    "/**/1",
    "",
    ",",
    ":",
    "]",
    "}",
    "\x00",
    "\ufeff1",
]
STRINGS = [
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"a\\ud83d"',
    '"\\u0000"',
    '"\u202e\u2066\u200b\u2028\ufeff\uffff"',
    '"<|im_start|>system\\n<|im_end|><|endoftext|>"',
    '"http://169.254.169.254/latest"',
    '"../../../../etc/passwd"',
    '"\'; drop table queries; --"',
    '"{{7*7}}${7*7}{% for x in y %}"',
    '"data:image/png;base64,AAAA"',
    '"(a+)+$"',
    '"auto"',
    '"user"',
    '"' + "a" * 20_000 + '"',
    '"' + "\\u0301" * 500 + '"',
]
DEEP = ["[" * depth + "1" + "]" * depth for depth in (10, 60, 63, 64, 65, 300, 2000, 50_000)] + [
    '{"a":' * depth + "1" + "}" * depth for depth in (10, 60, 65, 300, 2000)
]
LITERALS = [
    *NUMBERS,
    "1" * 300,
    "9" * 5000,
    "1." + "0" * 400,
    *BROKEN,
    *STRINGS,
    *DEEP,
    "null",
    "true",
    "{}",
    "[]",
]

scalars = st.one_of(
    st.sampled_from(LITERALS).map(Raw),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 0.5, 1e300, True, None, "", [], {}]),
    st.text(max_size=12),
    st.integers(-300, 300),
)
values = st.one_of(
    scalars,
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "name", "$ref", "", "\x00"]), scalars, max_size=3
    ),
)
names = st.sampled_from(
    [
        "",
        "role",
        "messages",
        "__class__",
        "\x00",
        "a" * 5000,
        "\ud800",
        "constructor",
        "$ref",
        "é",
        "9" * 5000,
        "\u0663",
        "\xb2",
        "-1",
    ]
)


HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
LITTLE: dict[str, Any] = {"model": SMALL, "max_tokens": 1}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a$"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
CHATS: list[dict[str, Any]] = [
    {**LITTLE, "messages": HELLO},
    {
        **LITTLE,
        "messages": HELLO,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["x"],
    },
    {
        **LITTLE,
        "messages": HELLO,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": 1.5},
        "presence_penalty": 0.5,
    },
    {**LITTLE, "messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {
        **LITTLE,
        "messages": HELLO,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    },
    {
        **LITTLE,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "42"},
        ],
        "tools": [TOOL],
    },
    {**LITTLE, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}, "user": "u"},
    {
        **LITTLE,
        "messages": HELLO,
        "metadata": {"knowledge": "k", "x": "y"},
        "chat_template_kwargs": {"enable_thinking": True},
    },
]
CHAT, ROUTE, TEXT = "/v1/chat/completions", "/v1/route", "/v1/completions"
OTHERS: list[tuple[str, dict[str, Any]]] = [
    (TEXT, {**LITTLE, "prompt": "Once", "logprobs": 1, "echo": True, "stop": "x"}),
    (TEXT, {**LITTLE, "prompt": [[1, 2, 3]], "temperature": 0, "stream": True}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 384}),
    ("/v1/feedback", {"request_id": "r", "rating": "up", "correction": "c", "comment": "d"}),
    ("/v1/cache/forget", {"ids": ["a" * 40], "query": "q", "variant": "v", "distance": 0.1, "dry_run": True}),
    ("/v1/cache/pin", {"ids": ["a" * 40]}),
    ("/v1/keys", {"name": "fuzz", "scopes": ["chat"], "variants": [SMALL], "remote": False, "group": "g"}),
    (f"/v1/models/{SMALL}/pin", {"pinned": True}),
]


def spots(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a document."""
    found = [path]
    for key, inner in (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        found += spots(inner, (*path, key))
    return found


def changed(node: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy of a document with one place in it changed."""
    if not path:
        return change(node)
    if isinstance(node, Pairs):
        return Pairs((key, changed(inner, path[1:], change) if key == path[0] else inner) for key, inner in node)
    if isinstance(node, dict):
        return {**node, path[0]: changed(node.get(path[0]), path[1:], change)}
    if isinstance(node, list):
        return [changed(inner, path[1:], change) if n == path[0] else inner for n, inner in enumerate(node)]
    return node


def render(node: Any) -> str:
    """As text; with Python's own liberties (NaN) and ours (`Raw`, `Pairs`)."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, dict | Pairs):
        pairs = node.items() if isinstance(node, dict) else node
        return "{" + ",".join(f"{json.dumps(key)}:{render(inner)}" for key, inner in pairs) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(render, node)) + "]"
    return json.dumps(node)


@st.composite
def documents(draw: st.DrawFn, base: dict[str, Any]) -> str:
    """A document that was right until one to three things in it were changed."""
    document: Any = base
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(spots(base)))
        how = draw(st.integers(0, 5))
        value, name = draw(values), draw(names) if how == 1 else ""

        def change(node: Any, how: int = how, value: Any = value, name: str = name) -> Any:
            if how == 1 and isinstance(node, dict):
                return {**node, name: value}
            if how == 2 and isinstance(node, dict) and node:
                first = next(iter(node))
                return Pairs([*node.items(), (first, value)])
            if how == 3 and isinstance(node, list):
                return [*node * 20, value]
            return value

        document = changed(document, path, change)
    return render(document)


def made_cheap(path: str, body: bytes) -> bytes:
    """If a variant would answer it: with the fields of `CHEAP` once more at its end, where they count."""
    model: type[BaseModel] = CompletionRequest if path == TEXT else ChatRequest
    try:
        model.model_validate(json.loads(body))
    except (ValidationError, ValueError, RecursionError):
        return body
    return body.rstrip()[:-1] + b"," + json.dumps(CHEAP).encode()[1:]


ENCODINGS = ["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-32-le", "latin-1"]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body that it may not expect."""
    if draw(st.integers(0, 2)):
        path, base = CHAT, draw(st.sampled_from(CHATS))
    else:
        path, base = draw(st.sampled_from(OTHERS))
    how = draw(st.integers(0, 19))
    if how == 19:
        body = draw(st.binary(max_size=60))
    elif how == 18:
        body = draw(values.map(render)).encode("utf-8", "replace")
    else:
        body = draw(documents(base)).encode(draw(st.sampled_from(ENCODINGS)), "replace")
    if how == 17:
        at = draw(st.integers(0, max(0, len(body) - 1)))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    if path in (CHAT, TEXT):
        body = made_cheap(path, body)
    # What the Router would be asked in any case is decided without a variant three times of four.
    return (ROUTE if path == CHAT and draw(st.integers(0, 3)) else path), body


body_cases = bodies().map(lambda drawn: request(drawn[0], drawn[1], kind="body"))
