from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.adapters import AdapterManifest, Promotion
from configs.training import Recipe
from deployments.adapters.sides import arm, belongs, shadowing, sides, tried
from deployments.contract import Adapter, RequestContext

BASE, OTHER = "smollm2-135m", "qwen2.5-coder-0.5b"
MANY = [f"conversation {n}" for n in range(4000)]


def adapter(
    name: str, share: float = 0.0, *, base: str = BASE, at: float = 0.0, shadow: float = 0.0
) -> AdapterManifest:
    return AdapterManifest(
        name=name,
        base=base,
        created=at,
        data_hash="",
        recipe=Recipe.model_validate({}),
        promotion=Promotion(share=share, shadow=shadow),
    )


def answered(promoted: list[AdapterManifest], conversation: str) -> set[str]:
    return {one.name for one in sides(promoted, conversation)}


def parts(promoted: list[AdapterManifest]) -> dict[str, float]:
    found = [answered(promoted, one) for one in MANY]
    return {one.name: sum(one.name in names for names in found) / len(MANY) for one in promoted}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_it_answers_its_share(share: float) -> None:
    assert parts([adapter("a", share)])["a"] == pytest.approx(share, abs=0.02)


def test_several_share_a_base_and_none_takes_anothers() -> None:
    several = [adapter("a", 0.5, at=1), adapter("b", 0.3, at=2), adapter("c", 0.2, at=3)]
    assert parts(several) == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=0.025)
    assert all(len(answered(several, one)) == 1 for one in MANY), "together they answer all"
    two = [adapter("a", 1.0), adapter("d", 1.0, base=OTHER)]
    assert answered(two, "x") == {"a", "d"}, "each base has sides of its own"


def test_a_conversation_stays_on_its_side_whatever_else_comes_or_grows() -> None:
    old = adapter("a", 0.2, at=1)
    mine = [one for one in MANY if answered([old], one)]
    with_new = [old, adapter("b", 0.5, at=2)]
    assert all("a" in answered(with_new, one) for one in mine)
    grown = [adapter("a", 0.4, at=1)]
    assert all(answered(grown, one) for one in mine)
    assert [one for one in MANY if answered([old], one)] == mine


@given(st.text(), st.floats(0, 1))
def test_any_conversation_has_a_side(conversation: str, share: float) -> None:
    assert sides([adapter("a", share)], conversation) == sides([adapter("a", share)], conversation)


def test_shadows_are_drawn_for_each_request() -> None:
    promoted = [adapter("a", shadow=0.25), adapter("b", shadow=1.0, base=OTHER), adapter("c")]
    found = [shadowing(promoted, BASE, str(n)) for n in range(4000)]
    assert sum(len(one) for one in found) / 4000 == pytest.approx(0.25, abs=0.02)
    assert {one.name for some in found for one in some} == {"a"}
    assert shadowing(promoted, f"ft:{BASE}:c", "r") == []


def test_which_arm_an_answer_belongs_to() -> None:
    model = f"ft:{BASE}:a"
    mine = (Adapter(model, "d", "share"),)
    bases = tried({model: adapter("a", 0.2), "ft:x:y": adapter("y", base=OTHER)})
    assert bases == {BASE}

    def side(variant: str, adapters: tuple[Adapter, ...] = (), *, drawn: bool = True) -> str | None:
        return arm(variant, RequestContext("r", adapters=adapters, drawn=drawn), bases)

    assert side(model, mine) == "adapter"
    assert side(BASE) == "base"
    assert side(BASE, mine) is None, "it stood in for the adapter"
    assert side(OTHER, mine) is None
    assert side(model, mine, drawn=False) is side(BASE, drawn=False) is None


def test_whose_answers_may_be_kept_together() -> None:
    model = f"ft:{BASE}:a"
    mine = [Adapter(model, "d", "share")]
    assert belongs(model, mine)
    assert not belongs(BASE, mine), "it stood in for the adapter"
    assert belongs(OTHER, mine)
    assert belongs(BASE, [])
    assert not belongs(model, [])
    assert not belongs(f"ft:{BASE}:b", mine)
