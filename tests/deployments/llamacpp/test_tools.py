from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.llamacpp.tools import Text, ToolCall, ToolParser
from tests.splits import cut, places

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "metric": {"type": "boolean"},
            "tags": {"type": "array"},
        },
    },
    "write_file": {"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}}},
}
WEATHER = '{"name": "get_weather", "arguments": {"city": "Köln"}}'
HERMES = f"<tool_call>\n{WEATHER}\n</tool_call>"
KOELN = ("get_weather", {"city": "Köln"})

Calls = list[tuple[str, Any]]


def parse(pieces: list[str], tools: dict[str, dict[str, Any]] = TOOLS) -> tuple[str, Calls]:
    """(all text, all calls with their arguments read)"""
    parser = ToolParser(tools)
    found = [item for piece in pieces for item in parser.push(piece)] + parser.finish()
    text = "".join(item.text for item in found if isinstance(item, Text))
    return text, [(item.name, json.loads(item.arguments)) for item in found if isinstance(item, ToolCall)]


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        (HERMES, "", [KOELN]),
        (f"I look it up.\n{HERMES}", "I look it up.\n", [KOELN]),
        (f"{HERMES}\n{HERMES}\n", "", [KOELN, KOELN]),
        (f"<tool_call>\n{WEATHER}", "", [KOELN]),
        (f"```json\n{WEATHER}\n```", "", [KOELN]),
        (f"```\n{WEATHER}\n```", "", [KOELN]),
        (f"```json\n{WEATHER}\n{WEATHER}\n```", "", [KOELN, KOELN]),
        (f"```json\n[{WEATHER}, {WEATHER}]\n```", "", [KOELN, KOELN]),
        (f"Sure:\n```json\n{WEATHER}", "Sure:\n", [KOELN]),
        (WEATHER, "", [KOELN]),
        (f"\n {WEATHER}", "\n ", [KOELN]),
        ('{"name": "get_weather", "parameters": {"days": 2}}', "", [("get_weather", {"days": 2})]),
        ('{"name": "get_weather"}', "", [("get_weather", {})]),
        ('{"type": "function", "function": ' + WEATHER + "}", "", [KOELN]),
        (
            '<tool_call>{"name": "get_weather", "arguments": "{\\"days\\": 2}"}</tool_call>',
            "",
            [("get_weather", {"days": 2})],
        ),
    ],
)
def test_calls_are_found_in_every_format_that_the_models_write(answer: str, text: str, calls: Calls) -> None:
    assert parse([answer]) == (text, calls)
    assert parse(list(answer)) == (text, calls)


XML = """<tool_call>
<function=get_weather>
<parameter=city>
Bad
Homburg
</parameter>
<parameter=days>
3
</parameter>
<parameter=metric>
True
</parameter>
<parameter=tags>
["a", {"b": 1}]
</parameter>
</function>
</tool_call>"""


@pytest.mark.parametrize("split", [lambda text: [text], list])
@pytest.mark.parametrize(
    "answer", [XML, XML.removesuffix("</tool_call>"), XML.removesuffix("\n</function>\n</tool_call>")]
)
def test_qwen3_coders_xml_is_read_by_the_schemas_types(answer: str, split: Any) -> None:
    arguments = {"city": "Bad\nHomburg", "days": 3, "metric": True, "tags": ["a", {"b": 1}]}
    assert parse(split(answer)) == ("", [("get_weather", arguments)])


def test_an_xml_value_that_is_not_of_its_type_stays_text() -> None:
    answer = "<tool_call><function=get_weather><parameter=days>soon</parameter></function></tool_call>"
    assert parse([answer]) == ("", [("get_weather", {"days": "soon"})])


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>{"name": "launch", "arguments": {}}</tool_call> and on',
        '<tool_call>{"name": "get_weather", "arguments": {"city": </tool_call> tail',
        '<tool_call>{"name": "get_weather", "arguments": 7}</tool_call>',
        "<tool_call><function=launch><parameter=x>1</parameter></function></tool_call>",
        f"<tool_call>{WEATHER} and so on</tool_call>",
        '```json\n{"name": "launch", "arguments": {}}\n```\nThat is all.\n',
        '```json\n{"city": "Köln"}\n```',
        '```python\nprint({"a": 1})\n```\n\nThat\n\nis it.\n',
        '{"city": "Köln"} is the city',
        "{not json at all} really",
        '{"name": "get_weather", "argum',
        "<tool_call>",
        "a < b, `c`, ``d`` and <tool_",
        "   \n",
        "",
    ],
)
def test_what_is_no_declared_call_stays_text_to_the_letter(answer: str) -> None:
    assert parse([answer]) == (answer, [])
    assert parse(list(answer)) == (answer, [])


fragments = st.sampled_from(
    [
        HERMES,
        f"<tool_call>{WEATHER}",
        "<tool_call>",
        "</tool_call>",
        '<tool_call>{"name": "launch", "arguments": {}}</tool_call>',
        XML,
        "<function=get_weather>",
        f"```json\n{WEATHER}\n```",
        "```json\n",
        "```",
        "```\n",
        "```python\nprint(1)\n```\n",
        WEATHER,
        '{"a": 1}',
        "{",
        "}",
        "\n",
        "\n\n",
        " ",
        "hello world",
        "<",
        "`",
        "é🙂",
    ]
)
answers = st.lists(fragments, max_size=6).map("".join)


@settings(max_examples=800)
@given(answers, places)
@example(f"{HERMES}\nHello\n\nworld", [len(HERMES), len(HERMES) + 6, len(HERMES) + 8])
@example(f"```python\nprint(1)\n```\nNow:\n{HERMES}", [12, 30])
def test_any_split_gives_the_same_calls_and_the_same_text(answer: str, at: list[int]) -> None:
    whole = parse([answer])
    assert parse(cut(answer, at)) == whole
    assert parse(list(answer)) == whole


@settings(max_examples=500)
@given(answers | st.text(max_size=80), places)
def test_nothing_is_lost_or_reordered_where_no_tool_is_declared_by_that_name(answer: str, at: list[int]) -> None:
    assert parse(cut(answer, at), {"another": {}}) == (answer, [])


def test_blank_lines_inside_the_text_after_a_call_are_kept() -> None:
    text, calls = parse([HERMES, "\n", "Hello", "\n\n", "world", " ", "!"])
    assert calls == [KOELN]
    assert text.strip() == "Hello\n\nworld !"


@pytest.mark.parametrize("split", [lambda text: [text], list], ids=["whole", "characters"])
def test_a_call_after_a_block_of_code_is_a_call(split: Any) -> None:
    code = "First:\n```python\nprint(1)\n```\nNow I look:\n"
    assert parse(split(code + HERMES)) == (code, [KOELN])


@pytest.mark.parametrize("split", [lambda text: [text], list], ids=["whole", "characters"])
def test_a_call_in_a_fence_after_a_block_of_code_is_a_call(split: Any) -> None:
    code = "```python\nprint(1)\n```\n"
    assert parse(split(f"{code}```json\n{WEATHER}\n```")) == (code, [KOELN])


def test_text_after_a_block_of_code_streams() -> None:
    parser = ToolParser(TOOLS)
    parser.push("```python\nprint(1)\n```\n")
    found = parser.push("That prints one, and here is why: ")
    assert "here is why" in "".join(item.text for item in found if isinstance(item, Text))


def test_a_fence_inside_an_argument_does_not_end_the_fence_of_the_call() -> None:
    arguments = {"path": "README.md", "content": "# Title\n```bash\nmake\n```\n"}
    call = json.dumps({"name": "write_file", "arguments": arguments})
    assert parse([f"```json\n{call}\n```"]) == ("", [("write_file", arguments)])


def test_a_closing_tag_inside_an_argument_does_not_end_the_call() -> None:
    arguments = {"path": "notes", "content": "models write <tool_call>…</tool_call>"}
    call = json.dumps({"name": "write_file", "arguments": arguments}, ensure_ascii=False)
    assert parse([f"<tool_call>\n{call}\n</tool_call>"]) == ("", [("write_file", arguments)])


def test_half_a_surrogate_pair_in_an_argument_can_still_be_sent_as_utf8() -> None:
    half = '<tool_call>{"name": "get_weather", "arguments": {"city": "\\ud83d"}}</tool_call>'
    (call,) = ToolParser(TOOLS).push(half)
    assert isinstance(call, ToolCall)
    assert set(json.loads(call.arguments.encode())) == {"city"}


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>{"name": "get_weather", "arguments": {"days": NaN}}</tool_call>',
        "<tool_call><function=get_weather><parameter=days>NaN</parameter></function></tool_call>",
    ],
)
def test_arguments_are_json_even_where_the_model_wrote_nan(answer: str) -> None:
    for found in ToolParser(TOOLS).push(answer):
        if isinstance(found, ToolCall):
            assert "NaN" not in found.arguments.replace('"NaN"', ""), "NaN is no JSON"


def test_ordinary_text_streams_at_once() -> None:
    parser = ToolParser(TOOLS)
    assert parser.push("It is 5") == [Text("It is 5")]
    assert parser.push(" < 6, a `b`") == [Text(" < 6, a `b")]
    assert parser.push(" c") == [Text("` c")]
