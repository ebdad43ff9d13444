"""A worker's loop by itself: same seed, same losses; stopped and resumed, the same curve; guards that end it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.adapters import AdapterManifest, write_adapter
from configs.training import Recipe
from tests.train.finetune.conftest import Train
from tests.train.tiny import make_dataset, write_lines
from train.finetune.callbacks import exhausted


@pytest.mark.parametrize(
    ("recipe", "nf4"),
    [
        ({}, False),
        ({"optimizer": "adamw_torch"}, True),
        ({"packing": True, "max_length": 256, "epochs": 4}, False),
    ],
    ids=["adamw_8bit", "nf4", "packing"],
)
def test_what_is_stopped_and_resumed_has_the_curve_of_what_never_stopped(
    train: Train, recipe: dict[str, Any], nf4: bool
) -> None:
    whole = train(recipe, nf4=nf4)
    assert whole.outcome.end == "done"
    last = whole.outcome.step
    assert sorted(whole.kept.curve()) == list(range(1, last + 1))
    middle = last // 2 + 1
    stopped = train(recipe, stop_at=middle, nf4=nf4)
    assert (stopped.outcome.end, stopped.outcome.step) == ("stopped", middle)
    resumed = train(recipe, resume=stopped.kept.checkpoints[middle], nf4=nf4)
    assert (resumed.outcome.end, resumed.outcome.step) == ("done", last)
    # Bit for bit, which says too that the same seed gives the same losses.
    assert stopped.kept.curve() | resumed.kept.curve() == whole.kept.curve()
    assert stopped.kept.curve("evaluation") | resumed.kept.curve("evaluation") == whole.kept.curve("evaluation")


def test_the_same_seed_twice_gives_the_same_losses_and_weights(train: Train) -> None:
    one, two = (train({"max_steps": 4}) for _ in range(2))
    assert one.outcome == two.outcome
    assert one.kept.curve() == two.kept.curve()
    weights = [(run.kept.checkpoints[4] / "adapter_model.safetensors").read_bytes() for run in (one, two)]
    assert weights[0] == weights[1]
    other = train({"max_steps": 4}, seed=43).kept
    assert other.curve() != one.kept.curve()


def test_conversations_packed_in_a_row_do_not_see_each_other(train: Train) -> None:
    one = {"batch": 1, "accumulation": 1, "max_steps": 1, "dropout": 0.0, "max_length": 2048}
    alone = train(one | {"batch": 16})
    packed = train(one | {"packing": True})
    assert packed.kept.curve()[1] == pytest.approx(alone.kept.curve()[1], abs=1e-4)


def test_what_is_learned_is_learned(train: Train) -> None:
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    recipe = {"epochs": 6, "evaluate_every": 6, "learning_rate": 0.05, "targets": linear, "alpha": 16}
    kept = train(recipe).kept
    held_out = kept.curve("evaluation")
    assert held_out[max(held_out)] < kept.curve()[1] - 0.3


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_thumbs_are_learned_from(train: Train, method: str) -> None:
    done = train({"method": method, "max_steps": 2, "evaluate_every": 2, "accumulation": 1})
    assert (done.outcome.end, done.outcome.step) == ("done", 2)
    assert sorted(done.kept.checkpoints) == [2]
    # Before anything is learned, no answer is better than another.
    assert done.kept.curve()[1] == pytest.approx(0.6931 if method == "dpo" else 0.5, abs=1e-3)
    assert done.kept.losses[2] < 1


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_it_goes_on_from_an_adapter(train: Train, tmp_path: Path, method: str) -> None:
    first = train({"learning_rate": 0.05, "evaluate_every": 100}).kept
    old = AdapterManifest(name="old", base="tiny-base", created=0.0, data_hash="", recipe=Recipe())
    write_adapter(tmp_path / "adapters" / "old", old)
    shutil.copytree(first.checkpoints[max(first.checkpoints)], tmp_path / "adapters" / "old" / "peft")
    recipe = {"method": method, "max_steps": 4, "evaluate_every": 100, "patience": None}
    whole = train(recipe, parents=("old",)).kept
    if method == "sft":
        assert whole.curve()[1] < first.curve()[1] - 0.05
    else:
        # What it is held against is the adapter that it went on from, not the base.
        assert whole.curve()[1] == pytest.approx(0.6931, abs=1e-3)
    resumed = train(recipe, parents=("old",), resume=whole.checkpoints[3]).kept
    assert resumed.curve() == {4: whole.curve()[4]}


def test_a_loss_that_is_no_number_ends_it_before_the_weights_are_spoilt(
    train: Train, base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    model = AutoModelForCausalLM.from_pretrained(base)
    [token] = AutoTokenizer.from_pretrained(base)("~", add_special_tokens=False)["input_ids"]
    model.get_input_embeddings().weight.data[token] = torch.nan
    model.save_pretrained(broken)
    data = make_dataset(tmp_path / "data", held_out=0)
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    rows[0]["messages"][0]["content"] = "~"
    write_lines(data / "train.jsonl", rows)
    failed = train({"checkpoint_every": 1}, weights=broken, data=data)
    assert failed.outcome.end == "failed"
    assert failed.outcome.error is not None
    assert f"diverged at step {failed.outcome.step + 1}" in failed.outcome.error
    assert sorted(failed.kept.checkpoints) == list(range(1, failed.outcome.step + 1))
    for folder in failed.kept.checkpoints.values():
        from safetensors.torch import load_file

        weights = load_file(folder / "adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_it_stops_early_where_nothing_is_gained_and_a_resumed_run_does_too(train: Train) -> None:
    # (A rate at which nothing changes.)
    recipe = {"learning_rate": 1e-12, "evaluate_every": 1, "patience": 2, "checkpoint_every": 100}
    done = train(recipe)
    assert (done.outcome.end, done.outcome.step) == ("early", 3)
    resumed = train(recipe, resume=done.kept.checkpoints[3])
    assert (resumed.outcome.end, resumed.outcome.step) == ("early", 3)


def test_kto_needs_a_batch(train: Train) -> None:
    from train.conversation import DataError

    with pytest.raises(DataError, match="batch must be 2 or more"):
        train({"method": "kto", "batch": 1})


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([3, 2, 1], 2, False),
        ([1, 2, 3], 2, True),
        ([2, 3, 1], 2, False),
        ([1, 1], 2, False),
        ([1, 1, 1], None, False),
    ],
)
def test_when_patience_ends(losses: list[float], patience: int | None, ends: bool) -> None:
    assert exhausted([{"loss": 9.0}, *({"eval_loss": loss} for loss in losses)], patience) == ends
