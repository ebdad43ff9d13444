from __future__ import annotations

from typing import Any

import pytest

from deployments.contract import ChatError
from deployments.llamacpp.grammar import MAX_REPETITIONS, MAX_SCHEMA_DEPTH, response_grammar, tool_grammar

TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}
OTHER = {"type": "function", "function": {"name": "stop"}}


def wrapped(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_free_text_has_no_grammar() -> None:
    assert response_grammar(None) is None
    assert response_grammar({}) is None
    assert response_grammar({"type": "text"}) is None


def test_a_schema_becomes_a_grammar_that_names_its_fields() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    grammar = response_grammar(wrapped(schema))
    assert grammar is not None
    assert "root ::=" in grammar
    assert '\\"city\\"' in grammar
    assert "object ::=" in (response_grammar({"type": "json_object"}) or "")


@pytest.mark.parametrize(
    ("response_format", "says"),
    [
        (wrapped(nested(MAX_SCHEMA_DEPTH + 1)), "nested deeper"),
        (wrapped(nested(20_000)), "nested deeper"),
        (wrapped({"type": "array", "maxItems": MAX_REPETITIONS + 1}), "maxItems"),
        (wrapped({"type": "object", "properties": {"a": {"type": "string", "minLength": 10**9}}}), "minLength"),
        (wrapped({"anyOf": [{"type": "array", "minItems": 1e300}]}), "minItems"),
        (wrapped({"$ref": "https://example.com/schema.json"}), "$ref"),
        (wrapped({"properties": {"a": {"$ref": "file:///etc/passwd"}}}), "$ref"),
        (wrapped({"type": "string", "enum": ["x" * 70_000]}), "longer than"),
        (wrapped({"$ref": "#/definitions/nowhere"}), "cannot be enforced"),
        (wrapped(None), "schema is missing"),
        (wrapped("string"), "schema is missing"),
        ({"type": "json_schema"}, "schema is missing"),
        ({"type": "yaml"}, "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_cannot_be_enforced_is_a_400(response_format: dict[str, Any], says: str) -> None:
    with pytest.raises(ChatError, match=says.replace("$", r"\$")) as raised:
        response_grammar(response_format)
    assert (raised.value.status, raised.value.kind) == (400, "invalid_request_error")
    assert raised.value.param == "response_format"


@pytest.mark.parametrize("wrong", ["schema", ["schema"], 7])
def test_a_json_schema_that_is_no_object_is_a_400(wrong: Any) -> None:
    with pytest.raises(ChatError) as raised:
        response_grammar({"type": "json_schema", "json_schema": wrong})
    assert raised.value.status == 400


def test_limits_themselves_are_allowed_and_a_field_may_be_called_like_one() -> None:
    schema = {
        "type": "object",
        "properties": {"maxItems": {"type": "array", "items": {"type": "integer"}, "maxItems": 5}},
    }
    assert "root ::=" in (response_grammar(wrapped(schema)) or "")
    assert "root ::=" in (response_grammar(wrapped(nested(10))) or "")


def test_a_forced_call_is_one_hermes_call_of_that_name() -> None:
    grammar = tool_grammar([TOOL, OTHER], "stop")
    root = next(line for line in grammar.splitlines() if line.startswith("root "))
    assert root == 'root ::= "<tool_call>\\n" call "\\n</tool_call>"'
    assert "stop" in grammar
    assert "get_weather" not in grammar
    either = tool_grammar([TOOL, OTHER], None)
    assert "stop" in either
    assert "get_weather" in either
    assert len([line for line in either.splitlines() if line.startswith("root ")]) == 1


def test_a_tools_schema_is_refused_like_any_other() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://x/y"}}}
    with pytest.raises(ChatError) as raised:
        tool_grammar([tool], None)
    assert (raised.value.status, raised.value.param) == (400, "tools")
