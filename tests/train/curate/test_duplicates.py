"""Who is whose duplicate, and who of them stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.curate.making import chatter, talk
from train.curate.duplicates import (
    Pair,
    alike_pairs,
    bands,
    exact_pairs,
    jaccard,
    later_of_same,
    near_pairs,
    pieces,
)
from train.curate.normal import same_words, told
from train.curate.steps import Tools


def test_case_spaces_and_system_prompt_do_not_matter() -> None:
    one = talk("What is  Rust?", "A language.")
    assert same_words(one) == same_words(talk("what is rust?\n", "a language."))
    assert same_words(one) != same_words(talk("what is rust?", "a language"))
    assert same_words(one) != same_words(one.model_copy(update={"rejected": "no"}))


def test_the_rated_one_stays_and_opposite_ones_both_do() -> None:
    plain, up, down = (talk("a", "b", id=name) for name in ("plain", "up", "down"))
    chats = [plain, up.model_copy(update={"rating": "up"}), plain, down.model_copy(update={"rating": "down"})]
    pairs = list(exact_pairs(chats))
    assert {p.first for p in later_of_same(chats, pairs, 1.0, keep_numbers=False).values()} == {1}
    assert sorted(later_of_same(chats, pairs, 1.0, keep_numbers=False)) == [0, 2]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.6, 0.8]))
def test_near_pairs_are_all_that_are_near(seed: int, near: float) -> None:
    chats = chatter(8, seed)
    cut = [talk(c.messages[0].content, c.messages[1].content[: 60 + 20 * at]) for at, c in enumerate(chats)]
    both = [*chats, *cut]
    found = {(p.first, p.second): p.likeness for p in near_pairs(both, near, 5)}
    sets = [pieces(told(each), 5) for each in both]
    wanted = {(a, b): jaccard(sets[a], sets[b]) for b in range(len(both)) for a in range(b)}
    assert found == {place: likeness for place, likeness in wanted.items() if likeness >= near}


def test_two_that_differ_in_a_number_are_never_the_same() -> None:
    chats = [talk(f"How many are 7 times {n}? Think step by step, please.", f"It is {7 * n}.") for n in (8, 9)]
    pairs = [Pair(0, 1, 0.97)]
    assert later_of_same(chats, pairs, 0.9, keep_numbers=True) == {}
    assert later_of_same(chats, pairs, 0.9, keep_numbers=False) == {1: Pair(0, 1, 0.97)}


def test_two_pairs_with_different_worse_answers_both_stay() -> None:
    chats = [talk("q", "a", rejected=worse) for worse in ("b", "c")]
    assert later_of_same(chats, [Pair(0, 1, 1.0)], 0.9, keep_numbers=False) == {}


@pytest.mark.parametrize("near", [0.3, 0.5, 0.6, 0.8, 0.95])
def test_the_index_misses_next_to_none(near: float) -> None:
    count, rows = bands(near)
    assert count * rows <= 256
    assert 1 - (1 - near**rows) ** count >= 0.999


def test_alike_pairs_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.curate.duplicates.ROWS", 3)
    r = np.random.default_rng(0)
    vectors = r.normal(size=(11, 8)).astype(np.float32)
    vectors[9] = vectors[2]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = {(p.first, p.second) for p in alike_pairs(vectors, 0.5)}
    cosines = vectors @ vectors.T
    assert found == {(a, b) for b in range(11) for a in range(b) if cosines[a, b] >= 0.5}
    assert (2, 9) in found


def test_embeddings_of_long_texts_and_in_any_company(tools: Tools) -> None:
    assert tools.embedder is not None
    long = "The harbour was quiet. " * 200
    several = tools.embedder.embed([long + "A storm came.", "A quiet harbour.", "Compiler errors in C++."])
    assert np.allclose(np.linalg.norm(several, axis=1), 1, atol=1e-5)
    assert several[0] @ several[1] > several[0] @ several[2] + 0.3
    assert tools.embedder.embed([]).shape == (0, tools.embedder.dimensions)
