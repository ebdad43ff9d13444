"""What the tests of training share: a tiny base model, and an outlet that keeps what it is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from configs.training import JobSpec
from tests.train.tiny import make_base, make_dataset, make_spec
from train.finetune.outcome import NO_LOSS, Outcome, Told


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@dataclass
class Kept:
    """An `Outlet` in this process. `stop_at`: the step at whose end it says stop."""

    folder: Path
    stop_at: int | None = None
    events: list[Told] = field(default_factory=list)
    checkpoints: dict[int, Path] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    asked: int = 0

    def tell(self, events: list[Told], checkpoint: Path | None = None, loss: float = NO_LOSS) -> None:
        self.events += events
        if checkpoint is not None:
            step = int(checkpoint.name.rpartition("-")[2])
            self.checkpoints[step] = self.folder / str(step)
            self.losses[step] = loss
            shutil.copytree(checkpoint, self.checkpoints[step], dirs_exist_ok=True)

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked == self.stop_at

    def curve(self, kind: str = "progress") -> dict[int, float]:
        return {data["step"]: data["loss"] for told, data in self.events if told == kind}


@dataclass(frozen=True)
class Trained:
    outcome: Outcome
    kept: Kept
    spec: JobSpec


Train = Callable[..., Trained]


@pytest.fixture
def train(base: Path, dataset: Path, tmp_path: Path) -> Iterator[Train]:
    """Train in this process, in fp32 or `as_here`, as a job on this machine."""
    from train.finetune.backends import Choice, choose, look
    from train.finetune.loop import run_steps
    from train.format.prepare import prepare

    runs = 0

    def go(
        recipe: dict[str, Any] | None = None,
        resume: Path | None = None,
        stop_at: int | None = None,
        nf4: bool = False,
        weights: Path = base,
        data: Path = dataset,
        as_here: bool = False,
        parents: tuple[str, ...] = (),
        seed: int = 42,
    ) -> Trained:
        nonlocal runs
        runs += 1
        folder = tmp_path / f"run-{runs}"
        spec = make_spec(weights, data, tmp_path / "adapters", recipe, parents=parents, seed=seed)
        prepare(data, weights, spec.recipe, folder / "prepared")
        kept = Kept(folder / "kept", stop_at)
        choice = Choice("peft", "cpu", "float32", nf4, spec.recipe.optimizer)
        if as_here:
            choice = choose(spec, look(gpu=False))
        return Trained(run_steps(spec, choice, folder / "prepared", kept, resume), kept, spec)

    yield go
