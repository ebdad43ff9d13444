"""Answers that can still be rated: which are remembered, how many, and what becomes of one that is rated."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.ledger import examples
from deployments.ledger.examples import MOST_CHARS_EACH, Answered, Answers, plain
from deployments.ledger.opinions import COLUMNS, TABLE


def answered(answer: str = "Yes.", key_id: str = "key_1") -> Answered:
    return Answered(key_id, "small", [{"role": "user", "content": "Is it?"}], answer)


def test_a_rated_answer_is_a_row_whatever_is_said_how_often() -> None:
    answers = Answers(10)
    answers.keep("r1", answered())
    row = answers.rated("r1", "key_1", True, None)
    assert row is not None
    assert {*row} == {TABLE, *COLUMNS["examples"]}
    assert (row["rating"], row["answer"], row["correction"], row["variant"]) == ("up", "Yes.", None, "small")
    again = answers.rated("r1", "key_1", True, None)
    assert again is not None and again["id"] == row["id"], "the same said twice is one row"
    corrected = answers.rated("r1", "key_1", False, "No.")
    assert corrected is not None and corrected["id"] != row["id"] and corrected["rating"] == "down"


def test_nobody_else_rates_it() -> None:
    answers = Answers(10)
    answers.keep("r1", answered())
    assert answers.rated("r1", "key_2", True, None) is None
    assert answers.rated("r2", "key_1", True, None) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(3)
    for number in range(5):
        answers.keep(f"r{number}", answered())
    assert [answers.rated(f"r{number}", "key_1", True, None) is not None for number in range(5)] == [False] * 2 + [
        True
    ] * 3
    answers.keep("long", answered("x" * MOST_CHARS_EACH))
    assert answers.rated("long", "key_1", True, None) is None
    monkeypatch.setattr(examples, "MOST_CHARS", 40)
    answers = Answers(100)
    for number in range(5):
        answers.keep(f"r{number}", answered("x" * 10))
    answers.keep("r4", answered("x" * 12))
    assert [answers.rated(f"r{number}", "key_1", True, None) is not None for number in range(5)] == [False] * 3 + [
        True
    ] * 2
    nothing = Answers(0)
    nothing.keep("r1", answered())
    assert nothing.rated("r1", "key_1", True, None) is None


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "developer", "content": "Be."}], [{"role": "system", "content": "Be."}]),
        ([{"role": "function", "content": "3"}], [{"role": "tool", "content": "3"}]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [{"role": "user", "content": "a\nb"}],
        ),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], None),
        ([{"role": "assistant", "content": "x", "tool_calls": [{}]}], None),
        ([{"role": "assistant", "content": None}], None),
        ([{"role": "user", "content": ["a"]}], None),
    ],
)
def test_only_texts_can_be_learned_from(messages: list[Any], told: Any) -> None:
    assert plain(messages) == told
