"""Which backend, what precision, and what is said about it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.adapters import AdapterManifest, read_adapter, write_adapter
from configs.training import JobSpec, Recipe
from tests.train.tiny import make_spec
from train.conversation import DataError
from train.finetune.backends import Machine, choose, parent_folder

CPU = Machine(cuda=False, bf16=False, unsloth=False, bitsandbytes=True)
FAST_CPU = Machine(cuda=False, bf16=True, unsloth=True, bitsandbytes=True)
CARD = Machine(cuda=True, bf16=True, unsloth=True, bitsandbytes=True)


def spec(recipe: dict[str, Any] | None = None, **more: Any) -> JobSpec:
    return make_spec(Path("/base"), Path("/data"), Path("/adapters"), {"quantize": "nf4"} | (recipe or {}), **more)


@pytest.mark.parametrize(
    ("machine", "job", "backend", "dtype", "nf4", "says"),
    [
        (CARD, spec(gpu=True), "unsloth", "bfloat16", True, "backend unsloth on CUDA; base in NF4"),
        (CARD, spec(gpu=True, backend="peft"), "peft", "bfloat16", True, "peft on CUDA (as asked)"),
        (CARD, spec({"method": "dpo"}, gpu=True), "peft", "bfloat16", True, "unsloth is used for sft"),
        (Machine(True, False, False, True), spec(gpu=True), "peft", "float16", True, "unsloth is not installed"),
        (CPU, spec(), "peft", "float32", True, "(unsloth needs CUDA); base in NF4, computed in float32"),
        (FAST_CPU, spec({"quantize": "none"}), "peft", "bfloat16", False, "base in bfloat16"),
    ],
)
def test_what_is_there_is_used_and_told(
    machine: Machine, job: JobSpec, backend: str, dtype: str, nf4: bool, says: str
) -> None:
    choice = choose(job, machine)
    assert (choice.backend, choice.dtype, choice.nf4, choice.optimizer) == (backend, dtype, nf4, "adamw_8bit")
    assert says in choice.notes[0][1]


def test_without_bitsandbytes_it_says_what_is_lost() -> None:
    choice = choose(spec(), Machine(False, False, False, False))
    assert (choice.nf4, choice.optimizer) == (False, "adamw_torch")
    assert [level for level, _ in choice.notes] == ["info", "warning", "warning"]


@pytest.mark.parametrize(
    ("machine", "job", "why"),
    [
        (CPU, spec(gpu=True), "sees no CUDA device"),
        (CPU, spec(backend="unsloth"), "no CUDA device"),
        (Machine(True, True, False, True), spec(backend="unsloth", gpu=True), "`unsloth` is not installed"),
    ],
)
def test_what_cannot_be_had_is_refused(machine: Machine, job: JobSpec, why: str) -> None:
    with pytest.raises(DataError, match=why):
        choose(job, machine)


def test_an_adapter_to_go_on_from_must_be_of_the_same_base(tmp_path: Path) -> None:
    job = make_spec(Path("/base"), Path("/data"), tmp_path, parents=("old",))
    with pytest.raises(DataError, match="there is no adapter 'old'"):
        parent_folder(job)
    known: dict[str, Any] = {"name": "old", "created": 0.0, "data_hash": "", "recipe": Recipe()}
    write_adapter(tmp_path / "old", AdapterManifest(base="another", **known))
    with pytest.raises(DataError, match="is one of another, not of tiny-base"):
        parent_folder(job)
    write_adapter(tmp_path / "old", AdapterManifest(base="tiny-base", **known))
    assert parent_folder(job) == tmp_path / "old" / "peft"
    assert parent_folder(job.model_copy(update={"parents": ()})) is None
    named = read_adapter(tmp_path / "old").version
    (tmp_path / ".archive").mkdir()
    (tmp_path / "old").rename(tmp_path / ".archive" / named)
    older = job.model_copy(update={"parents": (named,)})
    assert parent_folder(older) == tmp_path / ".archive" / named / "peft"
    # Another that takes the name is not what the job was to go on from, and neither is what stands in for it.
    write_adapter(tmp_path / "old", AdapterManifest(base="tiny-base", **{**known, "created": 1.0}))
    assert parent_folder(older) == tmp_path / ".archive" / named / "peft"
    shutil.rmtree(tmp_path / ".archive" / named)
    with pytest.raises(DataError, match=f"is not there any more: there is no adapter '{named}'"):
        parent_folder(older)
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(DataError, match="there is no adapter 'old'"):
        parent_folder(job)
