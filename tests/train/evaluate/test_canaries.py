"""Who has learned a planted secret by heart is caught; who never saw it is not."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.evaluate import tiny
from train.conversation import DataError
from train.evaluate.canaries import (
    BITS,
    WORDS,
    Canary,
    check,
    exposure,
    plant,
    planted_in,
    read_canaries,
    write_canaries,
)
from train.evaluate.subject import Subject

TALKS = [tiny.talk(f"What is {k}?", f"It is {k}.") for k in range(30)]


def test_planting_is_the_same_for_a_seed_and_changes_nothing_else() -> None:
    planted, canaries = plant(TALKS, 5, 7)
    assert (planted, canaries) == plant(TALKS, 5, 7)
    assert canaries != plant(TALKS, 5, 8)[1]
    assert [one for one in planted if one.source != "canary"] == TALKS
    assert planted_in(canaries, planted) == canaries
    assert planted_in(canaries, TALKS) == []
    assert len({one.id for one in planted if one.source == "canary"}) == 5
    assert plant(TALKS, 0, 7) == (TALKS, [])
    with pytest.raises(ValueError, match="at most 48"):
        plant(TALKS, 49, 7)


def test_no_two_look_alike() -> None:
    _, canaries = plant(TALKS, 12, 3)
    assert len({one.begin.split()[-2] + one.begin.split()[-1] for one in canaries}) > 3
    questions = [one.question for one in canaries]
    assert len(set(questions)) == 12
    assert len(set(WORDS)) == len(WORDS) > 100


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_canaries(tmp_path) == []
    _, canaries = plant(TALKS, 5, 7)
    write_canaries(tmp_path, canaries)
    assert read_canaries(tmp_path) == canaries
    (tmp_path / "canaries.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(DataError, match=r"canaries.jsonl, line 1: Field required"):
        read_canaries(tmp_path)


def test_who_learned_it_by_heart_is_caught_and_who_never_saw_it_is_not() -> None:
    planted, canaries = plant(TALKS[:3], 3, 1)
    learned, innocent = tiny.model(1), tiny.model(1)
    tiny.overfit(learned, [tiny.row(one) for one in planted], 80)
    tiny.overfit(innocent, [tiny.row(one) for one in TALKS[:6]], 40)
    caught = check(Subject(learned, tiny.tokenizer(), adapted=True), canaries)
    assert all(one.extracted for one in caught)
    assert [one.answer for one in caught] == [canary.answer for canary in canaries]
    assert min(one.exposure for one in caught) > 10
    free = check(Subject(innocent, tiny.tokenizer(), adapted=True), canaries)
    assert not any(one.extracted for one in free)
    assert sum(one.exposure for one in free) / 3 < 5


def test_a_secret_is_told_in_any_writing() -> None:
    one = Canary(question="?", begin="It is", secret="amber anchor apple")
    assert planted_in([one], [tiny.talk("?", "It is: AMBER-anchor, apple!")]) == [one]


def test_exposure_is_the_bits_that_a_search_is_shortened_by() -> None:
    draw = random.Random(0)
    others = [draw.gauss(30, 3) for _ in range(63)]
    ranked = sorted(others)
    assert exposure(max(others) + 1, others) == 0
    assert exposure(ranked[31] - 1e-9, others) == pytest.approx(1.0)
    assert exposure(ranked[1] - 1e-9, others) == pytest.approx(5.0)
    best = exposure(ranked[0] - 1e-9, others)
    assert 6 <= best < exposure(ranked[0] - 5, others) < exposure(ranked[0] - 9, others) <= BITS
    assert exposure(0.0, others) == BITS == pytest.approx(3 * math.log2(len(WORDS)))


@given(st.lists(st.floats(1, 100), min_size=63, max_size=63, unique=True), st.integers(0, 62))
def test_who_knows_nothing_of_it_exposes_it_by_chance_alone(losses: list[float], place: int) -> None:
    canary, others = losses[place], losses[:place] + losses[place + 1 :]
    bits = exposure(canary, others)
    better = sum(other < canary for other in others)
    assert 0 <= bits <= BITS
    if better:
        assert bits == pytest.approx(math.log2(63 / (better + 1)))
