from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.catalog import load_catalog
from configs.planner import KV_BYTES, Plan, PlanRefused, kv_mb, lay_out, make_plan, make_plans
from configs.profile import Profile, load_profile, profile_names

CATALOG = load_catalog()
MACHINE_MB = 16_000
"""What a profile's machine is taken to have where the profile does not say."""


def profile(machine_mb: int, reserve: int = 0, **variants: dict[str, object]) -> Profile:
    first = next(iter(variants))
    return Profile.model_validate(
        {
            "name": "planned",
            "description": "for a test",
            "machine": {"memory_mb": machine_mb, "reserve_mb": reserve},
            "variants": {name.replace("_", "-"): fields for name, fields in variants.items()},
            "levels": dict.fromkeys(("trivial", "simple", "moderate", "complex"), first.replace("_", "-")),
        }
    )


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_comes_with_it_fits_its_machine(name: str) -> None:
    for plan in make_plans(load_profile(name, CATALOG), CATALOG, MACHINE_MB):
        assert plan.needed_mb <= plan.budget_mb <= plan.memory_mb


def test_the_kv_cache_follows_from_the_models_shape() -> None:
    # 36 layers × 8 heads × 128 × keys and values × 2 bytes = 144 KiB a token.
    served = profile(1000, qwen3_8b={"context": 16384, "kv_tokens": 16384}).variants["qwen3-8b"]
    assert kv_mb(CATALOG.variant("qwen3-8b"), served) == 2304
    assert kv_mb(CATALOG.variant("qwen3-8b"), served.model_copy(update={"kv_dtype": "q8_0"})) == 1224
    assert KV_BYTES["llama.cpp"]["q8_0"] == 1.0625


def test_weights_that_are_converted_take_two_bytes_a_parameter() -> None:
    spec = CATALOG.variant("smollm2-135m-bf16")
    assert spec.weights_mb == 257  # 134.5 million parameters
    assert CATALOG.variant("qwen3-vl").weights_mb == 8364, "one byte each: FP8"
    served = profile(9000, smollm2_135m_bf16={"context": 4096, "kv_tokens": 4096}).variants["smollm2-135m-bf16"]
    # 30 layers × 3 heads × 64 × keys and values × 2 bytes = 22.5 KiB a token; FP8 halves it.
    assert kv_mb(spec, served) == 90
    assert kv_mb(spec, served.model_copy(update={"kv_dtype": "q8_0"})) == 45


def test_a_row_adds_up_and_its_share_is_rounded_up() -> None:
    plan = make_plan(profile(10_000, qwen3_8b={"context": 4096, "kv_tokens": 4096}), CATALOG, 1)
    (row,) = plan.rows
    assert row.weights_mb == 4795
    assert row.weights_mb + row.overhead_mb == CATALOG.variant("qwen3-8b").memory_mb
    assert row.total_mb == row.weights_mb + row.kv_mb + row.overhead_mb == 5976
    assert plan.share(row) == 0.60
    assert not plan.swaps


def test_swapped_ones_need_room_for_the_largest_only() -> None:
    swapped = {"context": 4096, "kv_tokens": 4096, "keep": "auto"}
    plan = make_plan(
        profile(28_000, 1000, qwen3_4b={"context": 4096, "kv_tokens": 4096}, qwen3_32b=swapped, qwen3_14b=swapped),
        CATALOG,
        1,
    )
    assert plan.swaps
    assert plan.resident_mb == plan.rows[0].total_mb
    assert plan.largest_swapped_mb == plan.rows[1].total_mb
    assert sum(row.total_mb for row in plan.rows) > plan.budget_mb == 27_000


def test_copies_take_their_memory_each_and_are_not_swapped() -> None:
    one = make_plan(profile(20_000, qwen3_4b={"context": 2048}), CATALOG, 1)
    two = make_plan(profile(20_000, qwen3_4b={"context": 2048, "replicas": 2}), CATALOG, 1)
    assert two.resident_mb == 2 * one.resident_mb
    with pytest.raises(ValueError, match="goes with one replica"):
        profile(20_000, qwen3_4b={"replicas": 2, "keep": "auto"})


def test_an_impossible_plan_is_refused_with_the_numbers_and_the_nearest_that_fits() -> None:
    wish = profile(12_000, qwen3_8b={"context": 32768, "parallel": 4, "kv_tokens": 65536})
    with pytest.raises(PlanRefused, match=r"planned.*14616 MiB \(qwen3-8b 14616\); 12000 of 12000 MiB") as refused:
        make_plan(wish, CATALOG, 1)
    assert refused.value.changes == ("KV cache as q8_0",)
    assert refused.value.nearest is not None and refused.value.nearest.fits
    tighter = profile(7_000, qwen3_8b={"context": 32768, "parallel": 4, "kv_tokens": 65536})
    with pytest.raises(PlanRefused) as refused:
        make_plan(tighter, CATALOG, 1)
    assert refused.value.changes == ("KV cache as q8_0", "contexts divided by 4, though none below 2048 tokens")
    two = profile(6_500, qwen3_8b={"context": 2048}, qwen3_4b={"context": 2048})
    with pytest.raises(PlanRefused) as refused:
        make_plan(two, CATALOG, 1)
    assert refused.value.changes[-1] == "swapped instead of kept always: qwen3-8b, qwen3-4b"
    with pytest.raises(PlanRefused, match="no shorter context") as refused:
        make_plan(profile(3_000, qwen3_8b={}), CATALOG, 1)
    assert refused.value.nearest is None


@given(
    machine=st.integers(500, 40_000),
    context=st.integers(256, 131_072),
    parallel=st.integers(1, 16),
    keep=st.sampled_from(["always", "auto"]),
)
def test_a_plan_fits_or_is_refused_and_what_is_offered_instead_fits(
    machine: int, context: int, parallel: int, keep: str
) -> None:
    wish = profile(
        machine,
        qwen3_4b={"context": context, "parallel": parallel, "keep": keep},
        qwen3_8b={"context": context, "parallel": parallel, "keep": "auto"},
    )
    offered: Plan | None
    try:
        offered = make_plan(wish, CATALOG, 1)
    except PlanRefused as refused:
        assert not lay_out(wish, CATALOG, 1).fits
        offered = refused.nearest
        assert (offered is None) == (not refused.changes)
    if offered is not None:
        assert offered.needed_mb <= offered.budget_mb
        assert set(offered.profile.variants) == set(wish.variants)
