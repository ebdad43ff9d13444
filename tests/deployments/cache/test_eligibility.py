from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.routing import CacheRules
from deployments.cache.eligibility import changes, eligibility
from deployments.contract import ChatRequest

RULES = CacheRules()


def most(question: str) -> str:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": question}]})
    return eligibility(request, RULES).most


@pytest.mark.parametrize(
    "question",
    [
        "What is the weather in Paris?",
        "What time is it?",
        "What's the date today?",
        "Who won the world cup?",
        "What is the current president of France?",
        "What is the latest version of Python?",
        "How much is the bitcoin price?",
        "What should I cook this evening?",
        "What is the exchange rate of the euro?",
        "What's the weather?",
        "Is it raining in Paris?",
        "What time is it in Tokyo?",
        "Flip a coin",
        "Give me a random number",
        "Tell me another joke",
    ],
)
def test_what_changes_with_time_is_asked_anew(question: str) -> None:
    assert most(question) == "bypass"
    assert changes(question) == "the answer changes with time"


@pytest.mark.parametrize(
    "question",
    [
        "Send an email to Bob",
        "Can you please turn off the lights",
        "please book a table for two",
        "Hey, remind me to call Ann",
        "Delete the file",
        "add milk to my list",
    ],
)
def test_what_is_to_be_done_is_done_each_time(question: str) -> None:
    assert changes(question) == "something is to be done"


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("When is my meeting?", "own affairs"),
        ("What did we discussed about trees?", "own affairs"),
        ("Translate to German: the cat sat on the old mat", "template"),
        ("Fix this:\ndef f(): pass", "template"),
        ('Say "the quick brown fox jumps over it" in German', "template"),
        ("```x = 1``` what does it do?", "template"),
    ],
)
def test_what_a_wording_does_not_decide_is_looked_up_exactly_only(question: str, why: str) -> None:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": question}]})
    found = eligibility(request, RULES)
    assert found.most == "exact"
    assert why in found.why


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "How do I send an email in Python?",
        "How do I delete a file?",
        "What is the time complexity of quicksort?",
        "In one word: what colour is grass?",
        'What does "carpe diem" mean?',
        "Why is the sky blue?",
        "What is the boiling temperature of water?",
    ],
)
def test_a_plain_question_may_be_served_from_a_similar_one(question: str) -> None:
    assert most(question) == "similar"


@given(st.text(max_size=500))
def test_any_text_has_a_verdict(text: str) -> None:
    assert most(text) in ("bypass", "exact", "similar")


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "What is said here?"}, {"type": "input_audio", "input_audio": {"data": "AAA"}}],
        [{"type": "text", "text": "What is in it?"}, {"type": "file", "file": {"file_id": "x"}}],
    ],
)
def test_what_is_more_than_words_is_no_similar_question(content: list[dict[str, object]]) -> None:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": content}]})
    assert eligibility(request, RULES).most != "similar"


@pytest.mark.parametrize(
    "hostile",
    [
        '"a b c d e' + " " * 100_000 + "x",
        "\u201cab cd ef " * 20_000,
        "translate " * 20_000,
        "\n" * 100_000,
        "-" * 100_000,
        '"a b c d e' + " " * 1_500 + "x",
        "\u201cab cd ef " * 150,
        "translate " * 200,
        "please " * 280,
        "hey, " * 400,
    ],
)
def test_no_text_takes_long_to_judge(hostile: str) -> None:
    """(Seconds where a pattern backtracks; this is about that, not about a machine's speed.)"""
    began = time.process_time()
    most(hostile)
    assert time.process_time() - began < 0.5
