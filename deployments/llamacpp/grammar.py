"""GBNF grammars for `response_format` and forced tool calls.

llama.cpp's own converter turns JSON Schema into GBNF; here is what it is fed, and what is refused
before it sees it, because a schema is a stranger's input to a parser in C++.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf

from deployments.contract import ChatError, invalid
from deployments.llamacpp.tools import TAG_CLOSE, TAG_OPEN

MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 32
MAX_REPETITIONS = 1_000
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def response_grammar(response_format: Mapping[str, Any] | None) -> str | None:
    """The grammar that `response_format` asks for, or None for free text. Raises a 400 `ChatError`."""
    kind = (response_format or {}).get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return str(JSON_GBNF)
    if kind != "json_schema":
        raise invalid(f"response_format.type {kind!r} is unknown", param="response_format")
    assert response_format is not None
    wish = response_format.get("json_schema")
    schema = wish.get("schema") if isinstance(wish, Mapping) else None
    if not isinstance(schema, dict):
        raise invalid("response_format.json_schema.schema is missing", param="response_format")
    return _convert(schema, "response_format")


def tool_grammar(tools: Sequence[Mapping[str, Any]], name: str | None) -> str:
    """A grammar of exactly one hermes tool call: to `name`, or to any of `tools`."""
    chosen = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object", "properties": {}},
            },
            "required": ["name", "arguments"],
        }
        for function in chosen
    ]
    grammar = _convert(calls[0] if len(calls) == 1 else {"anyOf": calls}, "tools")
    lines = ["call" + line[4:] if line.startswith("root ") else line for line in grammar.splitlines()]
    return "\n".join([f'root ::= "{TAG_OPEN}\\n" call "\\n{TAG_CLOSE}"', *lines])


def _convert(schema: dict[str, Any], param: str) -> str:
    problem = _refuse(schema, 0)
    if problem is None and len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        problem = f"it is longer than {MAX_SCHEMA_BYTES} bytes"
    if problem:
        raise invalid(f"This JSON schema cannot be enforced: {problem}.", param=param)
    try:
        return str(json_schema_to_gbnf(json.dumps(schema)))
    except ChatError:
        raise
    except Exception as error:  # the converter raises whatever it stumbles over
        raise invalid(f"This JSON schema cannot be enforced: {error}", param=param) from error


def _refuse(value: Any, depth: int) -> str | None:
    """Why a schema is too much for the grammar parser, or None."""
    if depth > MAX_SCHEMA_DEPTH:
        return f"it is nested deeper than {MAX_SCHEMA_DEPTH}"
    if isinstance(value, Mapping):
        for key in _COUNTS:
            count = value.get(key)
            if isinstance(count, int | float) and count > MAX_REPETITIONS:
                return f"{key} is beyond {MAX_REPETITIONS}"
        ref = value.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            return "$ref may only point into the schema itself"
        value = list(value.values())
    if isinstance(value, list):
        return next((problem for item in value if (problem := _refuse(item, depth + 1))), None)
    return None
