"""No two that are near are on different sides."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.curation import Split
from tests.train.curate.making import chatter, talk
from train.curate import splitting
from train.curate.duplicates import Pair, jaccard, pieces
from train.curate.normal import question, same_words, told
from train.curate.splitting import (
    Leak,
    LeakageError,
    LeakCheck,
    clusters,
    raise_leaks,
    split,
    split_without_leaks,
)


@settings(max_examples=50)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=30),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_clusters_stay_together_and_the_share_is_kept(
    count: int, near: list[tuple[int, int]], share: float, seed: int
) -> None:
    chats = chatter(count)
    pairs = [Pair(min(a, b), max(a, b), 0.9) for a, b in near if a < count and b < count]
    rules = Split(validation=share, seed=seed)
    held = split(chats, pairs, rules)
    assert all(held[p.first] == held[p.second] for p in pairs)
    assert sum(held) <= max(1, round(share * count))
    assert not all(held)
    assert held == split(chats, pairs, rules)
    if not share:
        assert not any(held)


def test_the_side_does_not_hang_on_the_order() -> None:
    chats = chatter(30)
    rules = Split(validation=0.2)
    held = dict(zip((c.id for c in chats), split(chats, [], rules), strict=True))
    again = dict(zip((c.id for c in chats[::-1]), split(chats[::-1], [], rules), strict=True))
    assert held == again
    assert sum(held.values()) == 6
    assert held != dict(zip(held, split(chats, [], Split(validation=0.2, seed=1)), strict=True))


def test_clusters_are_transitive() -> None:
    assert clusters(5, [(3, 1), (1, 4)]) == [0, 1, 2, 1, 1]


def test_the_same_question_is_on_one_side() -> None:
    chats = [talk("What is it?", f"Answer {word}.") for word in "abcdefgh"] + chatter(8)
    held = split(chats, [], Split(validation=0.5))
    assert len(set(held[:8])) == 1


def test_the_check_finds_what_a_wrong_split_leaks() -> None:
    chats = chatter(6)
    near = talk(chats[0].messages[0].content + "!", chats[0].messages[1].content + " Indeed.", id="near")
    chats = [*chats, near, talk(chats[1].messages[0].content, "Something else.", id="question"), chats[2]]
    held = [False] * 6 + [True] * 3
    leaks = LeakCheck(near=0.6).leaks(chats, held)
    assert next((leak.validation, leak.train) for leak in leaks if leak.why.startswith("near")) == (6, 0)
    assert {(leak.validation, leak.train) for leak in leaks} == {(6, 0), (7, 1), (8, 2)}
    with pytest.raises(
        LeakageError, match="of the validation set are in the training set too; the first: near and c0"
    ):
        raise_leaks(chats, leaks)
    vectors = np.eye(9, dtype=np.float32)
    vectors[8] = vectors[5]
    assert (8, 5) in {(x.validation, x.train) for x in LeakCheck(alike=0.9, vectors=vectors).leaks(chats, held)}


@pytest.mark.parametrize(("block", "at_once", "texts"), [(1, 1, 1), (7, 30, 2), (8192, 4 << 20, 32)])
def test_by_blocks_it_finds_what_one_look_at_all_of_it_finds(
    monkeypatch: pytest.MonkeyPatch, block: int, at_once: int, texts: int
) -> None:
    for name, value in (("BLOCK", block), ("AT_ONCE", at_once), ("TEXTS", texts)):
        monkeypatch.setattr(splitting, name, value)
    draw = np.random.default_rng(5)
    chats = chatter(30)
    chats += [talk(c.messages[0].content, c.messages[1].content + " Indeed.", id=c.id + "n") for c in chats[:15]]
    chats += [chats[at] for at in (1, 1, 4)]
    held = (draw.random(len(chats)) < 0.4).tolist()
    held[1], held[-2], held[-3] = True, False, False
    vectors = draw.normal(size=(len(chats), 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = LeakCheck(near=0.6, alike=0.8, vectors=vectors).leaks(chats, held)
    direct = []
    for v, t in ((v, t) for v in range(len(chats)) if held[v] for t in range(len(chats)) if not held[t]):
        if (likeness := jaccard(*(pieces(told(chats[at]), 5) for at in (v, t)))) >= 0.6:
            direct.append(Leak(v, t, f"near, {likeness:.3f}"))
        if (cosine := vectors[v] @ vectors[t]) >= 0.8:
            direct.append(Leak(v, t, f"alike, {cosine:.3f}"))
        for of, why in ((same_words, "the same words"), (question, "the same question")):
            same = next((at for at in range(len(chats)) if not held[at] and of(chats[at]) == of(chats[v])), None)
            if same == t:
                direct.append(Leak(v, t, why))
    assert found == sorted(direct, key=lambda leak: (leak.validation, leak.train, leak.why))
    assert {leak.why.partition(",")[0] for leak in found} == {
        "near",
        "alike",
        "the same words",
        "the same question",
    }


def test_what_the_comparison_takes_does_not_grow_with_both_sides() -> None:
    # (One table of all cosines would take 57 MiB, and what of it is a leak 14 more.)
    count, held_back = 8_000, 3_000
    vectors = np.zeros((count, 16), np.float32)
    vectors[:held_back, 0] = vectors[held_back:, 1] = 1
    chats = [talk("q", "a")] * count
    check = LeakCheck(alike=0.9, vectors=vectors)
    held = [at < held_back for at in range(count)]
    tracemalloc.start()
    found = check.leaks(chats, held)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {leak.why for leak in found} == {"the same words", "the same question"}
    assert most < 32 << 20


def test_what_the_index_missed_is_put_together() -> None:
    chats = chatter(20)
    chats += [talk(c.messages[0].content, c.messages[1].content + " Indeed.", id=c.id + "n") for c in chats]
    check = LeakCheck(near=0.6)
    held = split_without_leaks(chats, [], Split(validation=0.5), check)
    assert check.leaks(chats, held) == []
    assert 0 < sum(held) <= 20


def test_a_leak_that_cannot_be_mended_is_an_error() -> None:
    class Always(LeakCheck):
        def leaks(self, conversations, held):  # type: ignore[no-untyped-def]
            return super().leaks(conversations[:1] * 2, [True, False])

    with pytest.raises(LeakageError):
        split_without_leaks(chatter(4), [], Split(validation=0.5), Always())
