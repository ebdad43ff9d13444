"""Jobs that are killed half-way, and one that is run again, over one that is not: do they come out the same? With
a plot."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import psutil

from benchmarks.finetune import make_data, make_spec
from benchmarks.machine import console, machine, show
from configs.training import Recipe, load_recipes, read_events, write_spec

Kill = Callable[[psutil.Process], None]


def kill_worker(driver: psutil.Process) -> None:
    """SIGKILL to the process that trains."""
    for child in driver.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("RayTrainWorker" in word for word in child.cmdline()):
                child.kill()


def kill_everything(driver: psutil.Process) -> None:
    """SIGKILL to the driver and its whole Ray."""
    for member in (*driver.children(recursive=True), driver):
        with suppress(psutil.NoSuchProcess):
            member.kill()


def curves(folder: Path) -> list[list[tuple[int, float]]]:
    """(step, loss) of each unbroken part."""
    parts: list[list[tuple[int, float]]] = [[]]
    for event in read_events(folder):
        if "going on from the checkpoint" in str(event.data.get("message")):
            parts.append([])
        if event.kind == "progress":
            parts[-1].append((event.data["step"], event.data["loss"]))
    return parts


def run_job(folder: Path, kill: Kill | None, at: int) -> None:
    """The job to its end, with one killing after step `at`."""
    command = [sys.executable, "-c", ONLY_TRAINING, str(folder)]
    for _ in range(4):
        with (folder / "run.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=_environment())
        while process.poll() is None:
            time.sleep(0.1)
            if kill is not None and any(
                event.kind == "progress" and event.data["step"] >= at for event in read_events(folder)
            ):
                kill(psutil.Process(process.pid))
                kill = None
        if process.returncode == 0:
            return
    raise RuntimeError((folder / "run.log").read_text()[-2000:])


ONLY_TRAINING = (
    "import types, train.run; train.run._finish = lambda *_: types.SimpleNamespace(model=''); train.run.main()"
)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PYTHONPATH": root}


def main(weights: Path, name: str, steps: int, plot: Path | None) -> None:
    """Four jobs, one after the other."""
    recipe = load_recipes()[name].model_copy(
        update={
            "max_steps": steps,
            "checkpoint_every": max(2, steps // 8),
            "evaluate_every": steps,
            "patience": None,
        }
    )
    kills: dict[str, Kill | None] = {
        "uninterrupted": None,
        "run again": None,
        "worker killed": kill_worker,
        "all of Ray killed": kill_everything,
    }
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_data(root / "data")
        told: dict[str, list[list[tuple[int, float]]]] = {}
        for number, (title, kill) in enumerate(kills.items()):
            console.print(f"{title} …")
            folder = root / f"job-{number}"
            spec = make_spec(weights, root, recipe)
            write_spec(folder, spec.model_copy(update={"id": f"ftjob-{secrets.token_hex(12)}"}))
            # (Not just after a checkpoint: something is to be done twice.)
            run_job(folder, kill, steps // 2 + recipe.checkpoint_every // 2)
            told[title] = curves(folder)
    _compare(told)
    if plot is not None:
        _plot(told, recipe, plot)


def _compare(told: dict[str, list[list[tuple[int, float]]]]) -> None:
    [whole] = told["uninterrupted"]
    by_step = dict(whole)
    rows = [
        [
            title,
            str(len(parts) - 1),
            str(sum(len(part) for part in parts) - len(by_step)),
            f"{max(abs(loss - by_step[step]) for part in parts for step, loss in part):.2g}",
        ]
        for title, parts in told.items()
    ]
    show(
        "The same job again, and killed",
        ["run", "killed", "steps done twice", "largest difference of a loss"],
        rows,
    )


def _plot(told: dict[str, list[list[tuple[int, float]]]], recipe: Recipe, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7.0, 4.5))
    [whole] = told["uninterrupted"]
    axes.plot(*zip(*whole, strict=True), color="lightgrey", linewidth=6, label="uninterrupted")
    for (title, parts), colour in zip(list(told.items())[1:], ("tab:green", "tab:blue", "tab:red"), strict=True):
        for number, part in enumerate(parts):
            steps, losses = zip(*part, strict=True)
            label = title if number == 0 else None
            axes.plot(steps, losses, color=colour, linestyle=("-", "--")[number % 2], linewidth=1.2, label=label)
            if number:
                axes.plot(steps[0], losses[0], marker="o", color=colour)
    axes.set(xlabel="step", ylabel="training loss", title="Killed and resumed (a dot: where it went on)")
    axes.legend()
    figure.text(0.01, 0.01, f"{machine()}; rank {recipe.rank}, seed 42", fontsize=6, color="grey")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
