"""A coverage plugin that saves what was measured every few seconds.

Ray ends its workers without letting Python finish, so that what coverage would save at the end is lost.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import coverage

SECONDS = 3.0


def coverage_init(registry: Any, options: dict[str, str]) -> None:
    """Called by coverage in every process that it measures."""
    threading.Thread(target=_save_now_and_then, name="coverage-saver", daemon=True).start()


def _save_now_and_then() -> None:
    while True:
        time.sleep(SECONDS)
        measuring = coverage.Coverage.current()
        if measuring is not None:
            measuring.save()
