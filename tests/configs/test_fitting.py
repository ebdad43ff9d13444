from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.catalog import Catalog, load_catalog
from configs.document import ConfigError
from configs.fitting import MOST_THREADS, Hardware, fit
from configs.planner import lay_out, make_plan
from configs.profile import Machine, Profile, load_profile

CATALOG = load_catalog()
PLENTY = Hardware(64_000, 16, frozenset({"avx2"}))
ARM = frozenset({"asimd", "asimddp"})


def cpu(**machine: object) -> Profile:
    profile = load_profile("cpu", CATALOG)
    return profile.model_copy(update={"machine": profile.machine.model_copy(update=machine)})


def test_where_there_is_plenty_only_threads_and_files_are_chosen() -> None:
    fitted, changes = fit(cpu(), CATALOG, PLENTY)
    assert changes == ()
    for name, served in fitted.variants.items():
        given_ = cpu().variants[name]
        assert (served.threads, served.quantization) == (MOST_THREADS, CATALOG.variant(name).quantization)
        assert (served.context, served.kv_dtype, served.keep) == (given_.context, "f16", "always")


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 2), (8, 4), (64, 8)])
def test_two_variants_can_compute_at_once(cores: int, threads: int) -> None:
    fitted, _ = fit(cpu(), CATALOG, Hardware(64_000, cores, frozenset()))
    assert {served.threads for served in fitted.variants.values()} == {threads}


def test_what_is_named_stays() -> None:
    profile = cpu()
    named = profile.variants["smollm2-135m"].model_copy(update={"threads": 3})
    profile = profile.model_copy(update={"variants": {**profile.variants, "smollm2-135m": named}})
    assert fit(profile, CATALOG, PLENTY)[0].variants["smollm2-135m"].threads == 3


def test_a_cpu_with_dot_products_takes_the_file_that_is_made_for_them() -> None:
    pi = load_profile("raspberry-pi-5-8gb", CATALOG)
    fitted, _ = fit(pi, CATALOG, PLENTY)
    assert fitted.variants["qwen3-0.6b"].quantization == "Q4_0"
    assert fitted.serving(CATALOG).variant("qwen3-0.6b").source.filename == "Qwen3-0.6B-Q4_0.gguf"
    elsewhere, _ = fit(load_profile("intel-n100-8gb", CATALOG), CATALOG, Hardware(0, 1, ARM))
    assert elsewhere.variants["qwen3-0.6b"].quantization == "Q8_0", "the profile says what its machine can do"


def test_a_small_machine_gets_shorter_contexts_and_then_swaps() -> None:
    fitted, changes = fit(cpu(), CATALOG, Hardware(5000, 2, frozenset()))
    assert changes == ("KV cache as q8_0",)
    make_plan(fitted, CATALOG, 5000)
    fitted, changes = fit(cpu(), CATALOG, Hardware(4000, 2, frozenset()))
    assert changes[-1] == "swapped instead of kept always: qwen2.5-coder-1.5b, qwen2.5-coder-0.5b"
    assert make_plan(fitted, CATALOG, 4000).fits


def test_copies_of_one_that_is_swapped_are_given_up() -> None:
    profile = cpu()
    twice = profile.variants["qwen2.5-coder-1.5b"].model_copy(update={"replicas": 2})
    profile = profile.model_copy(update={"variants": {**profile.variants, "qwen2.5-coder-1.5b": twice}})
    fitted, _ = fit(profile, CATALOG, Hardware(5500, 2, frozenset()))
    assert Profile.model_validate(fitted.model_dump()).variants["qwen2.5-coder-1.5b"].replicas == 1


def test_limits_hold_however_much_there_is() -> None:
    fitted, changes = fit(cpu(max_memory_mb=2500), CATALOG, PLENTY)
    assert changes
    assert make_plan(fitted, CATALOG, PLENTY.memory_mb).needed_mb <= 2500
    fitted, changes = fit(cpu(max_loaded_models=1), CATALOG, PLENTY)
    plan = make_plan(fitted, CATALOG, PLENTY.memory_mb)
    assert all(not row.resident for row in plan.rows)
    assert plan.max_awake == 1


def test_a_smaller_file_is_taken_before_anything_has_to_leave() -> None:
    small = {
        "name": "two",
        "description": "",
        "variants": {"qwen3-0.6b": {"context": 2048, "parallel": 1, "kv_tokens": 2048}},
        "levels": dict.fromkeys(("trivial", "simple", "moderate", "complex"), "qwen3-0.6b"),
    }
    profile = Profile.model_validate(small)
    fitted, changes = fit(profile, CATALOG, Hardware(900, 4, frozenset()))
    assert changes == ("KV cache as q8_0", "smaller files: qwen3-0.6b as Q4_0")
    assert fitted.variants["qwen3-0.6b"].quantization == "Q4_0"


def test_a_machine_that_is_described_is_refused_not_adapted() -> None:
    fitted, changes = fit(cpu(memory_mb=4000), CATALOG, PLENTY)
    assert changes == ()
    assert not lay_out(fitted, CATALOG, 0).fits


def test_a_file_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    profile = load_profile("intel-n100-8gb", CATALOG)
    named = profile.variants["qwen3-4b"].model_copy(update={"quantization": "Q3_K"})
    profile = profile.model_copy(update={"variants": {**profile.variants, "qwen3-4b": named}})
    with pytest.raises(ConfigError, match="does not come as 'Q3_K'; there are Q4_K_M, Q5_K_M, Q8_0"):
        profile.check_against(CATALOG)


@given(
    memory=st.integers(500, 40_000),
    cores=st.integers(1, 256),
    most=st.none() | st.integers(1, 4),
    limit=st.none() | st.integers(500, 20_000),
)
def test_what_is_fitted_fits_or_nothing_would_and_stays_as_it_is(
    memory: int, cores: int, most: int | None, limit: int | None
) -> None:
    has = Hardware(memory, cores, ARM)
    fitted, changes = fit(cpu(max_loaded_models=most, max_memory_mb=limit), CATALOG, has)
    plan = lay_out(fitted, CATALOG, memory)
    # The largest alone, with the shortest context: less than that cannot be had.
    assert plan.fits or (changes == () and min(memory - 1500, limit or memory) < 2300)
    assert fit(fitted, CATALOG, has) == (fitted, ())


def test_the_written_profile_is_read_back_the_same() -> None:
    fitted, _ = fit(cpu(cpu_flags=ARM), CATALOG, PLENTY)
    assert Profile.model_validate(fitted.model_dump(mode="json", exclude_defaults=True)) == fitted
    assert Machine(cpu_flags=frozenset({"b", "a"})).model_dump(mode="json")["cpu_flags"] == ["a", "b"]


def test_the_catalog_serves_the_chosen_file_under_the_same_name() -> None:
    fitted, _ = fit(load_profile("raspberry-pi-5-8gb", CATALOG), CATALOG, PLENTY)
    served: Catalog = fitted.serving(CATALOG)
    again = fitted.serving(served)
    assert again.variant("qwen3-0.6b") == served.variant("qwen3-0.6b")
    assert served.variant("qwen3-0.6b").weights_mb < CATALOG.variant("qwen3-0.6b").weights_mb
