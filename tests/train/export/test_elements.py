"""Arrays of any length, element by element, and what is broken in them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.export import elements
from train.export.elements import Broken, Element, Text, TooLong, array, lines

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


def read(data: bytes, accept: Any = None) -> list[Element]:
    text = Text(io.BytesIO(data))
    assert text.peek() == "["
    text.take()
    return list(array(text, accept))


def is_conversation(value: Any) -> bool:
    return isinstance(value, dict) and "mapping" in value


def conversations(count: int) -> list[dict[str, Any]]:
    return [
        {"title": f"no. {n}", "mapping": {"a": {"title": "inner", "text": 'ä{[\\"' * n}}} for n in range(count)
    ]


@settings(max_examples=60)
@given(st.lists(VALUES, max_size=8), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_the_elements_are_those_of_the_whole(values: list[Any], indent: Any, ascii_only: bool, chunk: int) -> None:
    """Wherever the chunks of the file are cut."""
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "CHUNK", chunk)
        found = read(data)
    assert [one.value for one in found] == json.loads(data)
    assert [one.number for one in found] == list(range(1, len(values) + 1))
    assert all(one.problem is None for one in found)


@pytest.mark.parametrize("chunk", [7, 64, 1 << 18])
@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace('"no. 3", ', '"no. 3" '),
        lambda text: text.replace('"no. 3"', '"no. 3'),
        lambda text: text.replace('"no. 3"', "tru"),
        lambda text: text.replace('"no. 3"', "9" * 5000),
        lambda text: text.replace('"no. 3"', "[" * 5000),
        lambda text: text.replace('"no. 3"', '"no. \n3"'),
        lambda text: text.replace('"title": "no. 3"', '"title": "no. 3"}]}'),
    ],
)
def test_a_broken_conversation_costs_only_itself(harm: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "CHUNK", chunk)
    data = harm(json.dumps(conversations(8))).encode()
    found = read(data, is_conversation)
    assert [one.value["title"] for one in found if one.value and is_conversation(one.value)] == [
        f"no. {n}" for n in (0, 1, 2, 4, 5, 6, 7)
    ]
    problems = [one for one in found if one.problem]
    assert problems and problems[0].number in (4, 5), "it says which"


@pytest.mark.parametrize("cut", [2, 50, 137, 200])
def test_what_comes_before_a_cut_is_kept(cut: int) -> None:
    data = json.dumps(conversations(8)).encode()
    found = read(data[:-cut], is_conversation)
    whole = [one for one in found if one.problem is None]
    assert [one.value for one in whole] == conversations(8)[: len(whole)]
    assert len(whole) >= 6 and found[-1].problem is not None and "nothing after it was read" in found[-1].problem


def test_garbage_after_the_end_is_told() -> None:
    told = read(b"[1, 2] and more")
    assert [one.value for one in told] == [1, 2, None]
    assert told[2].problem == "something follows the end; nothing after it was read"
    assert [one.value for one in read(b"\xef\xbb\xbf[1, 2]")] == [1, 2]
    assert [one.value for one in read(b"[]")] == []


def test_no_element_is_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MOST_CHARS", 1 << 20)
    text = Text(io.BytesIO(b'"' + b"a" * (8 << 20)))
    with pytest.raises(TooLong, match="longer than 1 MiB"):
        text.value(1 << 20)
    with pytest.raises(Broken, match="nested too deeply"):
        Text(io.BytesIO(b"[" * 1_000_000)).value()
    with pytest.raises(Broken, match="nested too deeply"):
        Text(io.BytesIO(b'{"a":' * 1_000_000)).value()


def test_bytes_that_are_no_utf_8_cost_a_letter() -> None:
    assert read(b'["a\xffb", "c"]')[0].value == "a�b"


def test_lines_have_numbers_and_the_broken_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MOST_CHARS", 1000)
    told = list(
        lines(io.BytesIO(b'\xef\xbb\xbf{"a": 1}\n\nnot\n"' + b"x" * 5000 + b'"\n' + b"[" * 990 + b"\n[3]"))
    )
    assert [(one.number, one.value) for one in told if one.problem is None] == [(1, {"a": 1}), (6, [3])]
    problems = {one.number: one.problem for one in told if one.problem}
    assert problems[3] == "it is no JSON: Expecting value"
    assert problems[4] is not None and "longer than" in problems[4]
    assert problems[5] is not None
