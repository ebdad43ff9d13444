"""The way of a row from where it happens to PostgreSQL, whatever dies in between.

Who has a row to keep appends it to a file of its own (one `write`, tens of microseconds) and is done;
the Ledger reads all such files and copies them into PostgreSQL. A row that `append` has written survives the
death of its writer, of the Ledger and of PostgreSQL. Each line carries its checksum. While the disk takes nothing,
rows wait in memory, and are written when it does again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import time
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

logger = logging.getLogger("ray.serve")

ROTATE_BYTES = 8 << 20
MOST_WAITING = 20_000
"""Rows that wait in memory for a disk that is full."""


class Journal:
    """One writer's end. The file is locked while its writer lives, which is how the reader knows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None
        self._written = 0
        with suppress(OSError):  # (A disk that is full keeps nobody from starting: the first row tries again.)
            self._file = self._open()
        self._waiting: deque[bytes] = deque()

    def _open(self) -> int:
        """A new file, locked before the reader can see it: it deletes files that nobody has locked."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{time.time_ns() // 1_000_000}-{os.getpid()}-{secrets.token_hex(4)}.journal"
        staged = path.with_suffix(".new")
        file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        staged.rename(path)
        return file

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep a row (JSON types only). Raises `OSError` where the disk takes nothing and too many rows wait."""
        self._waiting.append(_encode(row))
        try:
            self.flush()
        except OSError as error:
            if len(self._waiting) > MOST_WAITING:
                self._waiting.pop()
                raise
            if len(self._waiting) == 1:
                logger.error("the journal takes nothing (%s); rows wait in memory until it does", error)

    @property
    def waiting(self) -> int:
        """Rows that the disk has not taken."""
        return len(self._waiting)

    def flush(self) -> None:
        """Write what waits, in order. Raises `OSError` where the disk takes no more."""
        while self._waiting:
            self._write(self._waiting[0])
            self._waiting.popleft()

    def _write(self, line: bytes) -> None:
        if self._file is None or self._written + len(line) > ROTATE_BYTES:
            full, self._file, self._written = self._file, self._open(), 0
            if full is not None:
                os.close(full)
        if os.write(self._file, line) != len(line):
            # (What the reader sees of it meanwhile has no end, and is left alone.)
            os.ftruncate(self._file, self._written)
            raise OSError(errno.ENOSPC, "the journal took only a part of a row")
        self._written += len(line)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


@dataclass(frozen=True)
class Batch:
    """Rows of one file, from `start` to `end` (bytes); `damaged` lines were not readable."""

    path: Path
    rows: list[dict[str, Any]]
    start: int
    end: int
    damaged: int


def read_batch(path: Path, start: int, limit: int) -> Batch:
    """Up to `limit` rows from byte `start`. A last line without its end is left for later."""
    rows: list[dict[str, Any]] = []
    end, damaged = start, 0
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n") or len(rows) == limit:
                break
            end += len(line)
            row = _decode(line)
            if row is None:
                damaged += 1
            else:
                rows.append(row)
    return Batch(path, rows, start, end, damaged)


def read_offset(path: Path) -> int:
    """How much of a journal file is in PostgreSQL already (bytes)."""
    try:
        return int(_offset_file(path).read_text())
    except (OSError, ValueError):
        return 0


def write_offset(path: Path, offset: int) -> None:
    """Remember it; replaced in one step, so that a crash leaves the old or the new."""
    staged = path.with_suffix(".offset.new")
    staged.write_text(str(offset))
    staged.replace(_offset_file(path))


def refuse(folder: Path, row: Mapping[str, Any], why: str) -> Path:
    """Keep a row apart that PostgreSQL will never take, with the reason: in the day's file (UTC) beside the
    journals. Returns that."""
    path = folder / f"refused-{datetime.now(UTC).date()}.jsonl"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.write(json.dumps({"why": why, "row": row}) + "\n")
    return path


def forget_refused(folder: Path, first: date) -> list[str]:
    """Delete what was refused before this day. Returns the files' names."""
    old = [path for path in sorted(folder.glob("refused-*.jsonl")) if _day_refused(path) < first]
    for path in old:
        path.unlink(missing_ok=True)
    return [path.name for path in old]


def _day_refused(path: Path) -> date:
    try:
        return date.fromisoformat(path.stem.removeprefix("refused-"))
    except ValueError:
        return date.max  # (A person's own.)


def remove_if_done(path: Path, offset: int) -> bool:
    """Delete a file that is read to its end and whose writer is gone."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # A half-written last line of a dead writer was never acknowledged to anyone.
        file.seek(offset)
        if b"\n" in file.read():
            return False
    path.unlink()
    _offset_file(path).unlink(missing_ok=True)
    return True


def pending_bytes(folder: Path) -> int:
    """Bytes that wait to be copied."""
    return sum(
        max(0, path.stat().st_size - read_offset(path)) for path in folder.glob("*.journal") if path.exists()
    )


def _offset_file(path: Path) -> Path:
    return path.with_suffix(".offset")


def _encode(row: Mapping[str, Any]) -> bytes:
    try:
        body = to_json(row)
    except ValueError:  # (A lone surrogate.)
        body = to_json(_storable(row))
    if b"\\u0000" in body:
        body = to_json(_storable(row))
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _storable(value: Any) -> Any:
    """Without NUL and lone surrogates, which PostgreSQL's text and jsonb refuse."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "")
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def _decode(line: bytes) -> dict[str, Any] | None:
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        row = json.loads(body)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
