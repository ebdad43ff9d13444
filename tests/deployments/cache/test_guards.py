"""Pairs of questions that lie near each other: which may share an answer, and which must not. All our own."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.routing import CacheRules
from deployments.cache.guards import GUARDS, may_serve, objections

TRAPS = {
    "numbers": [
        ("How do I cook rice for 4 people?", "How do I cook rice for 6 people?"),
        ("Is three days in Rome enough?", "Is five days in Rome enough?"),
        ("What is 15% of 80?", "What is 20% of 80?"),
        ("List ten facts about bees.", "List facts about bees."),
        ("What happened in 1,914?", "What happened in 1,941?"),
    ],
    "units": [
        ("How fast is 50 km per hour?", "How fast is 50 miles per hour?"),
        ("How much are 30 euros worth?", "How much are 30 dollars worth?"),
        ("What is the daily dose of ibuprofen?", "What is the weekly dose of ibuprofen?"),
        ("How many grams are in two cups of flour?", "How many grams are in two tablespoons of flour?"),
    ],
    "negation": [
        ("Should I water a cactus every day?", "Should I not water a cactus every day?"),
        ("Which foods can dogs eat?", "Which foods can't dogs eat?"),
        ("Name languages without garbage collection.", "Name languages with garbage collection."),
    ],
    "opposites": [
        ("How do I enable dark mode?", "How do I disable dark mode?"),
        ("What should I eat before a run?", "What should I eat after a run?"),
        ("Is this mushroom edible?", "Is this mushroom inedible?"),
    ],
    "identifiers": [
        ("What is new in Python 3.11?", "What is new in Python 3.12?"),
        ("What does error E404 mean?", "What does error E500 mean?"),
        ("Where is config.yaml read?", "Where is config.json read?"),
        ("What does get_user return?", "What does set_user return?"),
    ],
    "names": [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Who wrote about Napoleon first?", "Who wrote about Caesar first?"),
        ("How do I round a number?", "How do I round a number in Excel?"),
    ],
    "question": [("When was the bridge built?", "Where was the bridge built?")],
    "order": [
        ("How do I convert metres to feet?", "How do I convert feet to metres?"),
        ("Why did the dog bite the man?", "Why did the man bite the dog?"),
        (
            "What are dollars in euros at 1.1 dollars per euro?",
            "What are dollars in euros at 1.1 euros per dollar?",
        ),
        ("Which train goes from Rome to Paris?", "Which trains go from Paris to Rome?"),
    ],
    "request": [("How do I mute my phone at night?", "Mute my phone at night.")],
    "exchange": [
        ("Can dogs eat raw carrots every day?", "Can horses eat raw carrots every day?"),
        ("Can dogs eat raw carrots every day?", "Can dogs eat raw onions every day?"),
    ],
}
PARAPHRASES = [
    ("What is the capital of France?", "Which city is France's capital?"),
    ("How do I reverse a list in Python?", "How can I reverse a Python list?"),
    ("Why is the sky blue?", "What makes the sky blue?"),
    ("How many days are in a week?", "How many days does a week have?"),
    ("Explain recursion with 2 examples.", "Explain recursion with two examples."),
    ("Is it safe to eat raw eggs?", "Are raw eggs safe to eat?"),
    ("It is cold today, isn't it?", "It's cold today."),
    ("What is NASA?", "what is nasa"),
    ("How far is 5km?", "How far is 5 km?"),
    ("What is 15% of 80?", "What is 15 percent of 80?"),
    ("What is the daily dose of ibuprofen?", "What is the dose of ibuprofen per day?"),
    ("Do US citizens need a visa?", "Do American citizens need a visa?"),
    ("Is bread dough fine in the freezer?", "Is it fine to put dough of bread into the freezer?"),
    ("How do I count rows in a PostgreSQL table?", "How can I count the rows of a table in Postgres?"),
    ("How hot is 180°C?", "How hot is 180 degrees Celsius?"),
    ("Why is the sky blue when the sun shines?", "Why is the sky blue in sunshine?"),
]
RULES = CacheRules.model_validate({})


@pytest.mark.parametrize(
    ("guard", "pair"),
    [(guard, pair) for guard, pairs in TRAPS.items() for pair in pairs],
    ids=lambda value: value[0],
)
def test_a_trap_is_seen_by_its_guard_both_ways_round(guard: str, pair: tuple[str, str]) -> None:
    for asked, kept in (pair, pair[::-1]):
        assert GUARDS[guard](asked, kept), (asked, kept)
        assert guard in {said.split(":")[0] for said in objections(asked, kept)}
        assert not may_serve(asked, kept, 0.0, RULES), "however near it is"
        assert may_serve(asked, kept, 0.0, RULES.model_copy(update={"guards": False}))


@pytest.mark.parametrize("pair", PARAPHRASES, ids=lambda pair: pair[0])
def test_a_paraphrase_meets_no_objection(pair: tuple[str, str]) -> None:
    assert objections(*pair) == ()
    assert may_serve(*pair, RULES.distance, RULES)
    assert not may_serve(*pair, RULES.distance + 0.01, RULES)


@given(st.text(max_size=200))
@example("x AΣ'b")  # A sigma is another letter at the end of a word, in lower case.
def test_nothing_speaks_against_the_same_question(text: str) -> None:
    assert objections(text, text) == ()


@given(st.text(max_size=100), st.text(max_size=100))
def test_it_does_not_matter_which_came_first(one: str, other: str) -> None:
    assert {said.split(":")[0] for said in objections(one, other)} == {
        said.split(":")[0] for said in objections(other, one)
    }


@pytest.mark.parametrize("hostile", ["-" * 2000, "a-" * 1000, "a." * 1000, "_" * 2000, "a1" * 1000, "@a" * 1000])
def test_no_text_takes_long_to_compare(hostile: str) -> None:
    """(Seconds where a pattern backtracks; this is about that, not about a machine's speed.)"""
    began = time.process_time()
    objections(hostile, hostile[1:] + "x")
    assert time.process_time() - began < 0.5
