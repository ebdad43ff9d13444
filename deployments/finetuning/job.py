"""A fine-tuning job as it is known here, and a file that one learns from. Pure data."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from configs.home import Home
from configs.training import JobSpec

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "succeeded", "failed", "cancelled")
OVER: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
"""Nothing follows by itself."""

LEFT_SECONDS = 86_400.0
"""After which bytes without a row are nobody's."""
FILE_ID = r"^file-[0-9a-f]{32}$"


@dataclass(frozen=True)
class Job:
    """Times are Unix seconds."""

    id: str
    key_id: str
    created: float
    queued: float
    state: State
    spec: JobSpec
    asked: dict[str, Any] = field(default_factory=dict)
    """What its client said, as far as it is shown again: files, hyperparameters, method, metadata."""
    started: float | None = None
    finished: float | None = None
    attempt: int = 0
    """Times that a process was started for it."""
    deaths: int = 0
    """Of these, the last in a row that died without a new checkpoint."""
    attempt_seq: int = -1
    """The last event before the present attempt."""
    last_seq: int = -1
    cancel: float | None = None
    """When it was told to stop."""
    stage: str | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    note: str | None = None
    """What it waits for, or was given."""

    @property
    def submission(self) -> str:
        """The Ray job of the present attempt."""
        return f"{self.id}-{self.attempt}"

    @property
    def model(self) -> str:
        """The name by which its adapter is asked, or will be: another, where one that serves has the name."""
        return str(self.progress.get("model") or f"ft:{self.spec.base}:{self.spec.name}")


@dataclass(frozen=True)
class StoredFile:
    """A file that was uploaded. `created`: Unix seconds."""

    id: str
    key_id: str
    created: float
    filename: str
    bytes: int
    lines: int
    sha256: str


@dataclass(frozen=True)
class FileRoom:
    """What files take: the bytes of all, and what one key has of them."""

    bytes: int
    own_files: int
    own_bytes: int


def sweep_files(home: Home, known: Container[str], now: float) -> list[str]:
    """Delete what uploads have left that were cut off: bytes without a row, and old enough that none will come.
    Their names are told."""
    gone = []
    for path in (home.training / "files").glob("file-*"):
        counted = path.suffix == ".jsonl" and path.stem in known
        with suppress(OSError):
            if not counted and now - path.stat().st_mtime > LEFT_SECONDS:
                path.unlink()
                gone.append(path.name)
    return gone


def file_path(home: Home, file_id: str) -> Path:
    """Where a file's bytes are. `file_id`: one that was found, never as a client sends it."""
    return home.training / "files" / f"{file_id}.jsonl"
