from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configs.catalog import load_catalog
from configs.placement import HEAD, SLIVER, application_of, resource, there
from configs.planner import make_plans
from configs.profile import Profile, load_profile
from configs.routing import LEVELS

FIELDS: dict[str, Any] = {
    "name": "p",
    "description": "d",
    "variants": {"qwen3-4b": {}, "theirs": {"model": "qwen3-4b", "node": "macbook"}},
    "levels": dict.fromkeys(LEVELS, "qwen3-4b"),
    "nodes": {"macbook": {"machine": {"memory_mb": 8000}, "levels": {"trivial": "theirs"}}},
}


def test_what_is_placed_asks_for_its_nodes_resource() -> None:
    assert there(None) == {HEAD: SLIVER}
    assert there("macbook") == {resource("macbook"): SLIVER}
    assert resource("macbook") != resource(None)
    assert application_of("macbook") == "groupqwen-macbook"


def test_each_node_has_its_own_plan() -> None:
    catalog = load_catalog()
    head, macbook = make_plans(load_profile("rtx5090", catalog), catalog, 1)
    assert all(not row.variant.startswith("macbook") for row in head.rows)
    assert [row.variant for row in macbook.rows] == ["macbook-qwen3-4b", "macbook-qwen3-8b"]
    assert macbook.memory_mb == 16384
    assert macbook.rows[0].weights_mb == catalog.variant("qwen3-4b").weights_mb, "the same model by another name"


def test_a_profile_with_a_node_is_read() -> None:
    profile = Profile.model_validate(FIELDS)
    profile.check_against(load_catalog())
    assert list(profile.on(None).variants) == ["qwen3-4b"]
    assert list(profile.on("macbook").variants) == ["theirs"]
    assert profile.on("macbook").machine.memory_mb == 8000
    catalog = profile.serving(load_catalog())
    assert catalog.variant("theirs") == catalog.variant("qwen3-4b")
    assert profile.serving(catalog) == catalog


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variants": {"qwen3-4b": {"node": "mobile"}}}, "'mobile', which `nodes` does not hold"),
        ({"levels": dict.fromkeys(LEVELS, "theirs")}, "whose node may be away"),
        ({"nodes": {"macbook": {"machine": {}}}}, "memory_mb is not set"),
        (
            {"nodes": {"macbook": {"machine": {"memory_mb": 1}, "levels": {"trivial": "qwen3-4b"}}}},
            "does not run there",
        ),
        ({"nodes": {"toaster": {"machine": {"memory_mb": 1}}}}, "toaster"),
    ],
)
def test_a_node_must_make_sense(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Profile.model_validate({**FIELDS, **changes})
