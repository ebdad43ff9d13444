from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.llamacpp.reasoning import ReasoningParser
from tests.splits import cut, places


def parse(pieces: list[str], *, opened: bool = False) -> tuple[str, str]:
    """(reasoning, content)"""
    parser = ReasoningParser(opened=opened)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    assert all(part.text for part in parts), "an empty part is no part"
    kinds = [part.kind for part in parts]
    assert kinds == sorted(kinds, reverse=True), "reasoning comes before content"
    return (
        "".join(part.text for part in parts if part.kind == "reasoning"),
        "".join(part.text for part in parts if part.kind == "content"),
    )


streams = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", "\n", "\n\n", " ", "a", "so: 1 < 2", "🙂"]),
    max_size=10,
).map("".join)


@settings(max_examples=600)
@given(streams, places, st.booleans())
@example("<think>\nfirst line</think>\n\nyes", [7], False)
@example("\nfirst line</think>\n\nyes", [1], True)
def test_any_split_gives_the_same_reasoning_and_content(text: str, at: list[int], opened: bool) -> None:
    assert parse(cut(text, at), opened=opened) == parse([text], opened=opened)


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think>\nI weigh it.\n</think>\n\nYes.", False, "I weigh it.", "Yes."),
        ("\n <think>why</think>Yes.\n", False, "why", "Yes.\n"),
        ("I weigh it.\n</think>\n\nYes.", True, "I weigh it.", "Yes."),
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
        ("Yes, <think>no</think>.", False, "", "Yes, <think>no</think>."),
        ("<think>one</think>two <think>three</think>", False, "one", "two <think>three</think>"),
        ("<think>cut off in the mid", False, "cut off in the mid", ""),
        ("<thin", False, "", "<thin"),
        ("  indented", False, "", "  indented"),
        ("a </think", True, "a </think", ""),
    ],
)
def test_thought_and_answer_come_apart_one_character_at_a_time(
    text: str, opened: bool, reasoning: str, content: str
) -> None:
    assert parse([text], opened=opened) == (reasoning, content)
    assert parse(list(text), opened=opened) == (reasoning, content)


def test_reasoning_streams_before_the_tag_closes() -> None:
    parser = ReasoningParser()
    parser.push("<think>")
    assert [part.text for part in parser.push("first thought")] == ["first thought"]
    assert parser.push("\n") == []
    assert [part.text for part in parser.push("second")] == ["\nsecond"]


@given(st.text(max_size=60).filter(lambda text: not text.lstrip().startswith("<think>")), places)
def test_an_answer_without_a_thought_passes_to_the_letter(text: str, at: list[int]) -> None:
    assert parse(cut(text, at)) == ("", text)
