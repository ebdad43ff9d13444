from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.routing import LEVELS, Thresholds, load_routing
from deployments.classifier.rules import classify, has_images, last_user_text, level_of, text_of

ROUTING = load_routing()


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("complexity", "level"),
    [
        (0, "trivial"),
        (0.1999, "trivial"),
        (0.2, "simple"),
        (0.4999, "simple"),
        (0.5, "moderate"),
        (0.8, "complex"),
        (1, "complex"),
    ],
)
def test_a_level_begins_at_its_threshold(complexity: float, level: str) -> None:
    assert level_of(complexity, Thresholds(simple=0.2, moderate=0.5, complex=0.8)) == level


texts = st.text("a b?1.\n-é first then prove design", max_size=80)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), max_size=4))
def test_complexity_is_the_weighted_sum_of_signals_from_0_to_1(turns: list[tuple[str, str]]) -> None:
    found = classify([{"role": role, "content": content} for role, content in turns], ROUTING)
    assert all(0 <= value <= 1 for value in found.signals.values())
    weights = {name: getattr(ROUTING.complexity, name).weight for name in found.signals}
    total = sum(weights[name] * value for name, value in found.signals.items())
    assert found.complexity == pytest.approx(total, abs=2e-4)
    assert 0 <= found.complexity <= 1
    assert found.level in LEVELS


def test_harder_questions_score_higher() -> None:
    greeting = classify(user("hi"), ROUTING)
    question = classify(user("Compare TCP and UDP. Which one is better for games?"), ROUTING)
    hard = classify(
        user(
            "Analyze the trade-offs of this architecture step by step:\n"
            "1. first derive the bounds\n2. then prove them\n3. finally evaluate the design\n" + "context " * 2000
        ),
        ROUTING,
    )
    assert greeting.complexity < question.complexity < hard.complexity
    assert greeting.level == "trivial"
    assert hard.level == "complex"


def test_the_last_user_message_and_the_whole_length_count() -> None:
    messages = [
        {"role": "user", "content": "prove analyze derive design" * 50},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "thanks"},
    ]
    found = classify(messages, ROUTING)
    assert found.signals["keywords"] == 0
    assert found.context_tokens == sum(len(str(m["content"])) for m in messages) // 4


@pytest.mark.parametrize(
    ("query", "task"),
    [
        ("Write a Python function that reverses a list", "code"),
        ("```\nx = 1\n```", "code"),
        ("Translate 'good morning' to French", "translation"),
        ("How do I say thanks in Japanese?", "translation"),
        ("What is the capital of Peru?", "chat"),
        ("", "chat"),
    ],
)
def test_the_task_is_read_from_the_query(query: str, task: str) -> None:
    assert classify(user(query), ROUTING).task == task


def test_an_image_anywhere_makes_it_vision() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [*user([{"type": "text", "text": "Look"}, picture]), {"role": "assistant", "content": "a cat"}]
    assert has_images(messages)
    assert classify([*messages, *user("write python code")], ROUTING).task == "vision"
    assert not has_images(user([{"type": "text", "text": "image_url"}]))
    assert not has_images(user("image_url"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "text", "text": None}, "stray"], ""),
        (None, ""),
        (7, ""),
    ],
)
def test_the_text_of_any_content(content: Any, text: str) -> None:
    assert text_of(content) == text


def test_the_last_user_text_is_found_behind_other_roles() -> None:
    messages = [
        *user("one"),
        *user("two"),
        {"role": "assistant", "content": "x"},
        {"role": "tool", "content": "y"},
    ]
    assert last_user_text(messages) == "two"
    assert last_user_text([{"role": "system", "content": "x"}]) == ""


@pytest.mark.parametrize(
    "text", ["\n" * 200_000, " " * 200_000, "A." * 100_000, "A. x\n" * 40_000, "- " * 100_000]
)
def test_no_question_holds_up_the_loop(text: str) -> None:
    # A pattern that backtracks took minutes for these; a second is plenty on the slowest machine.
    started = time.process_time()
    classify([{"role": "user", "content": text}], ROUTING)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("query", "task"),
    [
        ("Which is a fruit?\nA. a car\nB. an apple\nAnswer with the letter.", "choice"),
        ("How many apples are 3 + 4?", "maths"),
        ("Summarize this letter: Dear Ann", "extraction"),
        ("Why is the sky blue?", "reasoning"),
        ("Hello there", "chat"),
    ],
)
def test_task_families(query: str, task: str) -> None:
    assert classify([{"role": "user", "content": query}], ROUTING).task == task
