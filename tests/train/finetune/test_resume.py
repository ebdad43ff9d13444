"""Jobs in Ray, killed and stopped, go on with the curve of a run that nothing has disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from configs.training import JobEvent, read_events
from tests.train.finetune.conftest import Train
from tests.train.tiny import make_job, make_spec
from train.finetune.resume import TRAINED

ROOT = Path(__file__).parents[3]
PATIENCE = 900
RECIPE = {
    "epochs": 40,
    "checkpoint_every": 8,
    "evaluate_every": 40,
    "learning_rate": 1e-3,
    "patience": None,
    "batch": 4,
    "accumulation": 1,
}
"""160 steps of 4 conversations."""


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The job in a process of its own; nothing of it is left afterwards."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.train.finetune.only_training", str(folder)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=(folder / "run.log").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """The driver and its whole Ray, with SIGKILL."""
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=30)
    process.wait(30)


def wait_for(folder: Path, process: subprocess.Popen[bytes], wanted: Callable[[JobEvent], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not any(wanted(event) for event in read_events(folder)):
        said = (folder / "run.log").read_text()[-3000:]
        assert process.poll() is None, said
        assert time.monotonic() < end, said
        time.sleep(0.05)


def checkpoint_at(step: int) -> Callable[[JobEvent], bool]:
    return lambda event: event.kind == "checkpoint" and event.data["step"] >= step


def train_worker_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """Ray names its processes after what runs in them."""
    [worker] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("RayTrainWorker" in word for word in child.cmdline())
    ]
    return worker


def curve(folder: Path) -> dict[int, float]:
    """Loss by step; what was done twice must have come out the same."""
    told: dict[int, float] = {}
    for event in read_events(folder):
        if event.kind == "progress":
            step, loss = event.data["step"], event.data["loss"]
            assert told.setdefault(step, loss) == loss
    return told


def states(folder: Path) -> list[str]:
    return [event.data["state"] for event in read_events(folder) if event.kind == "state"]


def test_killed_workers_and_a_killed_cluster_change_nothing(
    train: Train, base: Path, dataset: Path, tmp_path: Path
) -> None:
    whole = train(RECIPE, as_here=True)
    folder = make_job(tmp_path / "job", make_spec(base, dataset, tmp_path / "adapters", RECIPE))
    with running(folder) as process:
        wait_for(folder, process, checkpoint_at(16))
        train_worker_of(process).kill()
        wait_for(folder, process, checkpoint_at(80))
        kill_all(process)
    assert states(folder) == ["running"]
    before = max(curve(folder))
    assert before < 160
    with running(folder) as process:
        assert process.wait(PATIENCE) == 0, (folder / "run.log").read_text()[-3000:]
    events = list(read_events(folder))
    assert [event.seq for event in events] == list(range(len(events)))
    assert states(folder) == ["running", "running", "succeeded"]
    assert curve(folder) == whole.kept.curve()
    assert any("died" in str(event.data.get("message")) for event in events)
    resumed = [e.data["message"] for e in events if "going on from the checkpoint" in str(e.data.get("message"))]
    assert len(resumed) == 2
    assert sorted(path.name for path in (folder / TRAINED).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    best = min(whole.kept.losses, key=whole.kept.losses.__getitem__)
    assert (folder / TRAINED / "adapter_model.safetensors").read_bytes() == (
        whole.kept.checkpoints[best] / "adapter_model.safetensors"
    ).read_bytes()


def test_two_workers_share_each_batch_and_a_signal_leaves_a_checkpoint(
    train: Train, base: Path, dataset: Path, tmp_path: Path
) -> None:
    recipe = RECIPE | {"dropout": 0.0, "epochs": 20}
    alone = train(recipe, as_here=True).kept.curve()
    spec = make_spec(base, dataset, tmp_path / "adapters", recipe | {"batch": 2}, workers=2)
    folder = make_job(tmp_path / "job", spec)
    with running(folder) as process:
        wait_for(folder, process, checkpoint_at(8))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 3, (folder / "run.log").read_text()[-3000:]
    assert states(folder) == ["running", "stopped"]
    last = max(curve(folder))
    assert last < 80
    checkpoints = [event.data["step"] for event in read_events(folder) if event.kind == "checkpoint"]
    assert checkpoints[-1] == last
    with running(folder) as process:
        assert process.wait(PATIENCE) == 0, (folder / "run.log").read_text()[-3000:]
    assert states(folder) == ["running", "stopped", "running", "succeeded"]
    # (Sums of two halves are rounded in another order.)
    assert curve(folder) == pytest.approx(alone, rel=1e-3)


def test_a_cancelled_job_does_not_begin(base: Path, dataset: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", make_spec(base, dataset, tmp_path / "adapters"))
    (folder / "cancel").touch()
    with running(folder) as process:
        assert process.wait(PATIENCE) == 3
    assert states(folder) == ["running", "stopped"]
