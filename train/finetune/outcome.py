"""How training ended, and what it tells on its way: plain data, which crosses processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from configs.training import EventKind

Told = tuple[EventKind, dict[str, Any]]
"""Kind and data of an event to be."""

NO_LOSS = 1e30
"""Stands for the validation loss of a checkpoint at whose step there was none."""


@dataclass(frozen=True)
class Outcome:
    """`end`: all steps, no more gain, told to stop, or an error that a second try would only repeat."""

    end: Literal["done", "early", "stopped", "failed"]
    step: int = 0
    error: str | None = None


class Diverged(Exception):
    """The loss or a gradient is no number any more."""


class Outlet(Protocol):
    """Where a worker's news go. All workers call `tell` equally often: it waits for the others."""

    def tell(self, events: list[Told], checkpoint: Path | None = None, loss: float = NO_LOSS) -> None:
        """`checkpoint`: a folder that is kept, with the validation loss at its step."""

    def should_stop(self) -> bool:
        """Whether the owner wants it to end at this step."""
