from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.llamacpp.prefix import KEEP_SHARE, Slot, Tokens, common_prefix, place, worth_waiting


def tokens(*ids: int) -> Tokens:
    return np.array(ids, np.int32)


runs = st.lists(st.integers(0, 2), max_size=8)
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=8)
slots = st.lists(
    st.tuples(runs, st.sampled_from([None, "lora"]), st.booleans(), st.integers(0, 5)), min_size=1, max_size=5
).map(
    lambda rows: [Slot(n, tokens(*ids), adapter, busy, used) for n, (ids, adapter, busy, used) in enumerate(rows)]
)


@given(runs, runs)
def test_the_common_prefix_is_what_counting_gives(a: list[int], b: list[int]) -> None:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    assert common_prefix(tokens(*a), tokens(*b)) == n


@settings(max_examples=400)
@given(prompts, st.sampled_from([None, "lora"]), slots)
def test_a_placement_runs_in_an_idle_slot_and_reuses_the_most_that_there_is(
    ids: list[int], adapter: str | None, all_slots: list[Slot]
) -> None:
    prompt = tokens(*ids)
    placed = place(prompt, adapter, all_slots)
    if placed is None:
        assert all(slot.busy for slot in all_slots)
        return
    usable = [common_prefix(prompt, slot.tokens) for slot in all_slots if slot.adapter == adapter]
    assert not placed.slot.busy
    assert placed.reused == min(max(usable, default=0), len(prompt) - 1)
    assert placed.reused <= common_prefix(prompt, placed.source.tokens)
    if placed.reused:
        assert placed.source.adapter == adapter
    if placed.source is placed.slot and placed.reused < KEEP_SHARE * len(placed.source.tokens):
        others = [slot for slot in all_slots if not slot.busy and slot is not placed.slot]
        assert not placed.reused or not others, "a long prefix was thrown away though another slot was idle"


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    own, other = Slot(0, tokens(1, 2, 3, 4), last_used=1), Slot(1, tokens(1, 9), last_used=9)
    placed = place(tokens(1, 2, 3, 4, 5, 6), None, [own, other])
    assert placed is not None
    assert (placed.slot, placed.source, placed.reused) == (own, own, 4)


def test_a_shared_system_prompt_is_copied_out_of_a_slot_that_keeps_its_long_tail() -> None:
    long = Slot(0, tokens(1, 2, *range(10, 30)), last_used=5)
    old, empty = Slot(1, tokens(7, 8), last_used=1), Slot(2, tokens(), last_used=9)
    placed = place(tokens(1, 2, 3), None, [long, old, empty])
    assert placed is not None
    assert (placed.slot, placed.source, placed.reused) == (empty, long, 2)
    placed = place(tokens(1, 2, 3), None, [long, old])
    assert placed is not None
    assert (placed.slot, placed.source, placed.reused) == (old, long, 2)


def test_a_busy_slot_lends_its_prefix_and_stays() -> None:
    busy, idle = Slot(0, tokens(1, 2, 3), busy=True), Slot(1, tokens(8))
    placed = place(tokens(1, 2, 3, 4), None, [busy, idle])
    assert placed is not None
    assert (placed.slot, placed.source, placed.reused) == (idle, busy, 3)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    placed = place(tokens(1, 2, 3), None, [Slot(0, tokens(1, 2, 3))])
    assert placed is not None
    assert placed.reused == 2


def test_without_a_prefix_an_empty_slot_comes_first_and_then_the_least_recently_used() -> None:
    fresh, old, empty = Slot(0, tokens(1), last_used=8), Slot(1, tokens(2), last_used=3), Slot(2, tokens())
    assert (placed := place(tokens(5), None, [fresh, old, empty])) and placed.slot is empty
    assert (placed := place(tokens(5), None, [fresh, old])) and placed.slot is old


def test_waiting_pays_only_for_enough_tokens_under_the_same_adapter() -> None:
    prompt, computing = tokens(1, 2, 3, 4, 5), tokens(1, 2, 3, 4, 9)
    assert worth_waiting(prompt, None, [(computing, None)], have=0, gain=4)
    assert not worth_waiting(prompt, None, [(computing, None)], have=1, gain=4)
    assert not worth_waiting(prompt, "lora", [(computing, None)], have=0, gain=1)
    assert not worth_waiting(prompt, None, [(prompt, None)], have=0, gain=5), "the last token is computed anyway"
    assert not worth_waiting(prompt, None, [], have=0, gain=0)
