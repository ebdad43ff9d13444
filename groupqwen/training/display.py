"""A job's events as a progress bar: step, loss, validation loss, learning rate, tokens/s, time to the end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from configs.training import JobEvent, read_events

COLORS = {"info": "dim", "warning": "yellow", "error": "red"}


class Display:
    """Shows what a job tells from now on. `state`: what it said of itself last; `error`: why it failed."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
        )
        self._task = self._bars.add_task("starting", total=None, told="")
        self._seen = max((event.seq for event in read_events(folder)), default=-1)
        self._validation: float | None = None
        self.state: str | None = None
        self.error: str | None = None

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self) -> None:
        """Show what is new."""
        for event in read_events(self._folder, self._seen):
            self._seen = event.seq
            self._show(event)

    def _show(self, event: JobEvent) -> None:
        data = event.data
        if event.kind == "progress":
            self._bars.update(
                self._task, completed=data["step"], total=data["steps"], told=line(data, self._validation)
            )
        elif event.kind == "evaluation":
            self._validation = data["loss"]
        elif event.kind == "stage":
            self._bars.update(self._task, description=data["stage"])
        elif event.kind == "log":
            color = COLORS.get(data.get("level", "info"), "dim")
            self._bars.console.print(f"[{color}]{escape(str(data['message']))}[/{color}]", highlight=False)
        elif event.kind == "state":
            self.state, self.error = data["state"], data.get("error")


def line(progress: dict[str, Any], validation: float | None) -> str:
    """What is told of a step beside the bar."""
    parts = [f"loss {progress['loss']:.3f}"]
    if validation is not None:
        parts.append(f"validation {validation:.3f}")
    parts.append(f"rate {progress['learning_rate']:.1e}")
    parts.append(f"{progress['tokens_per_second']:,.0f} tokens/s")
    parts.append(f"{progress['memory_mb']:,} MB")
    parts.append(f"{timedelta(seconds=round(progress['eta_seconds']))} to go")
    return " · ".join(parts)
