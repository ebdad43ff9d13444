"""From what a client asks for to a job's spec."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.finetuning import FinetuningRules
from configs.home import Home
from configs.training import ADAPTER_NAME, JOB_ID, Recipe, load_recipes
from deployments.contract import ChatError
from deployments.finetuning.asked import (
    Hyperparameters,
    Start,
    base_of,
    name_of,
    new_id,
    no_such_parent,
    read_made,
    recipe_of,
    spec_of,
    tuned,
)
from deployments.finetuning.memory import check_size, needed_mb
from tests.deployments.adapters.made import published

CATALOG = load_catalog()
SMALL = "smollm2-135m"


def test_ids_are_of_their_form_and_never_the_same() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100 and all(re.fullmatch(JOB_ID, one) for one in ids)


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("My Habit!", "my-habit"),
        ("a.b_c-1", "a.b_c-1"),
        ("x" * 64, "x" * 63),
        (None, "job-" + "0" * 12),
        ("", "job-" + "0" * 12),
        ("你好", "job-" + "0" * 12),
        ("../../etc", "etc"),
    ],
)
def test_an_adapter_is_named_by_its_suffix(suffix: str | None, name: str) -> None:
    assert name_of(suffix, "ftjob-" + "0" * 24) == name
    assert re.fullmatch(ADAPTER_NAME, name)


def test_a_recipe_can_be_changed_field_by_field() -> None:
    changed = recipe_of("reference", load_recipes(), {"rank": 8, "max_steps": 3})
    assert (changed.rank, changed.max_steps, changed.alpha) == (8, 3, 32)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("nobody's", {}, "there are reference"),
        ("reference", {"rank": 0}, "overrides.rank"),
        ("reference", {"colour": 1}, "overrides.colour"),
        ("reference", {"note": "a\x00b"}, "overrides.note"),
        ("reference", {"note": "\ud800"}, "overrides.note"),
        ("reference", {"targets": ["q_proj", "\udfff"]}, "overrides.targets.1"),
        ("reference", {"beta": math.inf}, "overrides.beta"),
        ("reference", {"max_grad_norm": math.nan}, "overrides.max_grad_norm"),
    ],
)
def test_a_wrong_recipe_is_refused(name: str, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ChatError, match=said) as refused:
        recipe_of(name, load_recipes(), overrides)
    assert refused.value.status == 400


def test_openai_s_hyperparameters_are_of_the_recipe() -> None:
    recipe = Recipe()
    assert tuned(recipe, Hyperparameters()) == {}
    asked = Hyperparameters(n_epochs=2, batch_size=6, learning_rate_multiplier=0.5, beta=0.2)
    assert tuned(recipe, asked) == {"epochs": 2, "batch": 2, "accumulation": 3, "learning_rate": 1e-4}
    assert tuned(recipe, Hyperparameters(batch_size=7)) == {"batch": 1, "accumulation": 7}
    assert tuned(load_recipes()["dpo"], asked)["beta"] == 0.2
    with pytest.raises(ChatError, match="n_epochs is 900; it may be 1 to 50"):
        tuned(recipe, Hyperparameters(n_epochs=900))


def test_the_base_is_a_variant_or_an_adapter_of_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert base_of(SMALL, CATALOG, home)[::2] == (SMALL, ())
    for unknown in ("nobody", f"ft:{SMALL}:habit", f"ft:{SMALL}:../..", "ft:"):
        with pytest.raises(ChatError) as refused:
            base_of(unknown, CATALOG, home)
        assert refused.value.status == 404
    habit = published(home.adapters, "habit", SMALL, {})
    assert base_of(f"ft:{SMALL}:habit", CATALOG, home)[::2] == (SMALL, (habit.version,))


def test_the_version_to_go_on_from_is_the_one_that_was_there(tmp_path: Path) -> None:
    home = Home(tmp_path)
    older = published(home.adapters, "habit", SMALL, {})
    _, _, parents = base_of(f"ft:{SMALL}:habit", CATALOG, home)
    assert read_made(home, parents[0]) == read_made(home, "habit") == older
    newer = published(home.adapters, "habit", SMALL, {}, created=older.created + 1)
    assert read_made(home, parents[0]) is None
    assert read_made(home, "habit") == newer
    assert "'habit'" in str(no_such_parent(parents[0]))


def test_an_adapter_goes_on_with_its_own_base_only(tmp_path: Path) -> None:
    published(Home(tmp_path).adapters, "habit", "qwen3-8b", {})
    with pytest.raises(ChatError, match="was made for 'qwen3-8b'") as refused:
        base_of(f"ft:{SMALL}:habit", CATALOG, Home(tmp_path))
    assert refused.value.status == 400


def test_a_base_that_is_elsewhere_cannot_be_trained(tmp_path: Path) -> None:
    spec = CATALOG.variant(SMALL).model_copy(update={"engine": "remote"})
    catalog = CATALOG.model_copy(update={"variants": {"cloud": spec}})
    with pytest.raises(ChatError, match="runs somewhere else"):
        base_of("cloud", catalog, Home(tmp_path))


def test_a_spec_says_all_that_the_job_needs(tmp_path: Path) -> None:
    home = Home(tmp_path)
    start = Start(base=SMALL, name="habit", dataset="mine", workers=2, seed=7)
    base = base_of(SMALL, CATALOG, home)
    spec = spec_of(new_id(), start, Recipe(rank=4), base, home, tmp_path / "d", gpu=False, threads=3)
    assert spec.base_gguf == home.model_file(SMALL, CATALOG.variant(SMALL).source)
    assert (spec.weights, spec.adapters) == (home.model_folder(SMALL), home.adapters)
    assert (spec.recipe.rank, spec.workers, spec.threads, spec.seed) == (4, 2, 3, 7)


def test_memory_grows_with_what_takes_it() -> None:
    base = CATALOG.variant("qwen3-8b")
    usual = needed_mb(base, Recipe(), 1)
    assert 8_000 < usual < 24_000, "an 8B model in NF4 trains on a card of 24 GB"
    assert needed_mb(base, Recipe(quantize="none"), 1) > usual + 10_000
    assert needed_mb(base, Recipe(max_length=8192), 1) > usual
    assert needed_mb(base, Recipe(), 2) == 2 * usual
    assert needed_mb(CATALOG.variant(SMALL), Recipe(), 1) < usual


def test_what_no_machine_of_this_size_can_carry_is_refused() -> None:
    def refusal(recipe: Recipe, workers: int, room_mb: int | None, **rules: int) -> str | None:
        try:
            check_size(FinetuningRules.model_validate(rules), CATALOG.variant(SMALL), recipe, workers, room_mb)
        except ChatError as refused:
            return f"{refused.status} {refused.param or refused.code}"
        return None

    huge = Recipe(batch=1024, max_length=1 << 20)
    assert refusal(Recipe(), 1, 16_000) is None
    assert refusal(huge, 1, 16_000) == "400 no_room"
    assert refusal(huge, 1, None) is None, "Residency says so"
    assert refusal(huge, 1, 16_000, memory_mb=0) is None, "the owner knows better"
    assert refusal(Recipe(), 9, None) == "400 workers"
    assert refusal(Recipe(), 9, None, most_workers=9) is None
