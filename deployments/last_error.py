"""The last thing that went wrong with a part, kept after it is well again: what a person wants to know first."""

from __future__ import annotations

import time
from typing import Any

LONGEST = 300


class LastError:
    """Of one part."""

    def __init__(self) -> None:
        self._said: dict[str, Any] | None = None

    def note(self, error: BaseException | str) -> str:
        """Keep it; returns how it is put."""
        said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._said = {"error": said[:LONGEST], "at": round(time.time(), 3)}
        return said[:LONGEST]

    def report(self) -> dict[str, Any] | None:
        """`error` and `at` (Unix seconds); None where nothing has gone wrong since the start."""
        return self._said
