"""The end of a growing `events.jsonl`: each line once, whole lines only. Pure but for the file."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.training import JobEvent

logger = logging.getLogger("ray.serve")

MOST_EVENTS = 500
"""Of one look."""


class Tail:
    """Of one job's events. `after`: the number of the last one that is known already."""

    def __init__(self, folder: Path, after: int) -> None:
        self._path = folder / "events.jsonl"
        self._offset = 0
        self.after = after

    def look(self) -> list[JobEvent]:
        """Those that are new, in order; at most so many. They come again until `seen` is told."""
        found: list[JobEvent] = []
        self._ahead = self._offset
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return found
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n") or len(found) == MOST_EVENTS:
                    break
                self._ahead += len(line)
                event = _event(line, self._path)
                if event is not None and event.seq > self.after:
                    found.append(event)
        return found

    def seen(self, events: list[JobEvent]) -> None:
        """What the last look gave is kept elsewhere."""
        self._offset = self._ahead
        self.after = max([self.after, *(event.seq for event in events)])


def _event(line: bytes, path: Path) -> JobEvent | None:
    try:
        return JobEvent.model_validate_json(line)
    except ValidationError as error:
        logger.warning("a line of %s is no event and is left out: %s", path, error.errors()[0]["msg"])
        return None


def plain(value: Any) -> Any:
    """What PostgreSQL's jsonb takes: no NaN, no infinity, no NUL, no half of a surrogate pair."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {plain(str(name)): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def summed_up(events: list[JobEvent]) -> tuple[str | None, dict[str, Any]]:
    """The stage that these events end in (None: they say nothing of it), and what they change of the progress."""
    stage: str | None = None
    progress: dict[str, Any] = {}
    for event in events:
        data = plain(event.data)
        if event.kind == "stage":
            stage = str(data.get("stage"))
        elif event.kind == "progress":
            progress |= data
        elif event.kind == "evaluation":
            progress["validation_loss"] = data.get("loss")
        elif event.kind == "checkpoint":
            progress["checkpoint"] = data.get("step")
        elif event.kind == "state" and "model" in data:
            progress["model"] = data["model"]
    return stage, progress
