"""What Ray Train's controller hears of its workers becomes the job's events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.train import Checkpoint, UserCallback

from configs.training import EventLog
from train.finetune.outcome import Told


class ControllerEvents(UserCallback):  # type: ignore[misc]
    """In Ray Train's controller: what the first worker reports becomes events."""

    def __init__(self, folder: Path) -> None:
        self._events = EventLog(folder)

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        told: list[Told] = metrics[0]["events"]
        for kind, data in told:
            self._events.add(kind, **data)
        if checkpoint is not None:
            self._events.add("checkpoint", step=metrics[0]["step"], path=Path(checkpoint.path).name)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in sorted(worker_exceptions.items()):
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._events.add(
                "log",
                level="warning",
                message=f"worker {rank} died; going on from the last checkpoint: {last[:500]}",
            )
