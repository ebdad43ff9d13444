"""What Ray Train runs in each worker: the loop, with its news and checkpoints going to Ray."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train

from configs.training import read_spec
from train.conversation import DataError
from train.finetune.outcome import NO_LOSS, Outcome, Told
from train.finetune.resume import PREPARED, keep_news, lost_news, step_of, wants_stop

LESS_URGENT = 10
"""Niceness: who asks for an answer comes first. (Ray gives its workers none.)"""

REPEATED = (DataError, ValueError, TypeError, KeyError, AttributeError, ImportError, NotImplementedError)
"""A second try would fail in the same way. All else (a lost peer, a full memory) is worth one."""


class RayOutlet:
    """`Outlet` into Ray Train."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first = ray.train.get_context().get_world_rank() == 0

    def tell(self, events: list[Told], checkpoint: Path | None = None, loss: float = NO_LOSS) -> None:
        if checkpoint and self._first:
            keep_news(checkpoint, events)
        ray.train.report(
            {
                "events": events if self._first else [],
                "validation_loss": loss,
                "step": int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1,
            },
            checkpoint=ray.train.Checkpoint.from_directory(str(checkpoint)) if checkpoint else None,
        )

    def should_stop(self) -> bool:
        return wants_stop(self._folder)


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Returns an `Outcome` as a dictionary. Raises what is worth another try."""
    from train.finetune.backends import choose, look
    from train.finetune.loop import run_steps

    with suppress(OSError):
        os.nice(LESS_URGENT - os.nice(0))
    folder = Path(config["folder"])
    spec = read_spec(folder)
    outlet = RayOutlet(folder)
    last = ray.train.get_checkpoint()
    try:
        choice = choose(spec, look(spec.gpu))
        news: list[Told] = [("log", {"level": level, "message": text}) for level, text in choice.notes]
        resume = None if last is None else Path(last.path)
        if resume is not None:
            if ray.train.get_context().get_world_rank() == 0:
                news += lost_news(resume, folder)
            where = f"going on from the checkpoint of step {step_of(resume)}"
            news.append(("log", {"level": "info", "message": where}))
        outlet.tell(news)
        outcome = run_steps(spec, choice, folder / PREPARED, outlet, resume)
    except REPEATED as error:
        outcome = Outcome("failed", error=str(error) if isinstance(error, DataError) else _named(error))
    return asdict(outcome)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
