"""Memory that is lent to a guest: who leaves for it, who stays, and who comes back."""

from __future__ import annotations

import pytest

from deployments.residency.machine import Footprint, Impossible, Residency, State, Swap

FOOTPRINTS = {"small": Footprint(20), "middle": Footprint(40), "large": Footprint(60, asleep_mb=10)}


def group(budget: int = 130, **options: object) -> Residency:
    node = Residency(budget, FOOTPRINTS, spared=("small",), **options)  # type: ignore[arg-type]
    for second, name in enumerate(("small", "middle", "large")):
        node.adopt(name, State.AWAKE, 0)
        node.used(name, second)
    return node


def carry_out(node: Residency, now: float) -> list[Swap]:
    """Every swap that there is to do now."""
    done = []
    while (swap := node.next_swap(now)) is not None:
        done.append(swap)
        for name in swap.leaving:
            node.gone(name, now, asleep=not swap.altogether)
        if swap.coming is not None:
            node.came(swap.coming, now)
    return done


def test_there_is_room_at_once_where_there_is() -> None:
    node = group(budget=200)
    assert node.lend("job", 80, 30)
    assert carry_out(node, 1) == []


def test_the_least_recently_used_leave_first_and_no_more_than_must() -> None:
    node = group()
    node.used("middle", 50, 100)  # It is asked far more often, and most recently.
    assert not node.lend("job", 50, 90)
    assert [swap.leaving for swap in carry_out(node, 61)] == [("large",)]
    assert node.state("large") is State.ASLEEP, "sleep frees enough"
    assert node.lend("job", 50, 92)
    assert node.state("middle") is State.AWAKE


def test_who_is_spared_stays_and_sleepers_go_where_more_is_wanted() -> None:
    node = group()
    assert not node.lend("job", 105, 40)
    assert node.in_the_way() == ["middle", "large"]
    carry_out(node, 10)
    assert node.in_the_way() == []
    assert node.lend("job", 105, 41)
    assert {name: str(node.state(name)) for name in FOOTPRINTS} == {
        "small": "awake",
        "middle": "absent",
        "large": "absent",
    }


def test_what_can_never_be_lent_says_so_and_lends_nothing() -> None:
    node = group()
    with pytest.raises(Impossible, match="120 MiB are wanted; of 130 MiB, 20 are for variants that stay"):
        node.lend("job", 120, 30)
    assert node.lent_mb == 0
    node.lend("one", 60, 30)
    with pytest.raises(Impossible, match="60 for other jobs"):
        node.lend("two", 60, 30)


def test_who_lacks_room_meanwhile_holds_nobody_up() -> None:
    node = group()
    node.lend("job", 80, 40)
    carry_out(node, 10)
    assert node.lacks_room("large") and not node.lacks_room("small")
    node.gone("small", 11)
    node.wanted("large", 12)
    node.wanted("small", 13)
    swap = node.next_swap(14)
    assert swap is not None and swap.coming == "small"


def test_all_come_back_when_it_is_given_back() -> None:
    node = group()
    node.lend("job", 105, 40)
    carry_out(node, 10)
    node.give_back("job")
    assert [swap.coming for swap in carry_out(node, 20)] == ["large", "middle"], "the last used first"
    assert {str(node.state(name)) for name in FOOTPRINTS} == {"awake"}


def test_a_lease_that_is_not_renewed_lapses() -> None:
    node = group()
    node.lend("job", 105, 40)
    carry_out(node, 10)
    assert node.lend("job", 105, 65)
    assert carry_out(node, 50) == []
    assert node.lent_mb == 105
    assert [swap.coming for swap in carry_out(node, 65)] == ["large", "middle"]
    assert node.lent_mb == 0


def test_who_has_memory_keeps_it_whatever_becomes_of_the_budget() -> None:
    node = group()
    node.lend("job", 105, 40)
    carry_out(node, 10)
    node.budget_mb = 100
    node.lend("job", 105, 65, has=True)
    carry_out(node, 50)
    assert node.lent_mb == 105, "its lease goes on"
    anew = group(budget=100)
    anew.lend("job", 105, 40, has=True)
    assert anew.lent_mb == 105, "also by a Residency that remembers nothing of it"


def test_what_is_lent_cannot_be_pinned_away() -> None:
    node = group()
    node.lend("job", 80, 40)
    carry_out(node, 10)
    with pytest.raises(Impossible, match="training has 80 MiB"):
        node.pin("middle", True)
    assert not node.is_pinned("middle")
    node.give_back("job")
    node.pin("middle", True)


def test_who_was_sent_out_by_a_person_meanwhile_stays_out() -> None:
    node = group()
    node.lend("job", 105, 40)
    carry_out(node, 10)
    node.dismiss("middle")
    node.give_back("job")
    assert [swap.coming for swap in carry_out(node, 20)] == ["large"]


def test_who_is_being_loaded_counts_before_it_is_there() -> None:
    node = Residency(100, {"a": Footprint(60), "b": Footprint(50)})
    node.adopt("a", State.AWAKE, 0)
    node.wanted("b", 0)
    swap = node.next_swap(20)
    assert swap == Swap("b", ("a",))
    node.gone("a", 20)
    assert not node.lend("job", 60, 50), "b has its memory"
    node.came("b", 21)
    carry_out(node, 21)
    assert node.lend("job", 60, 52)
