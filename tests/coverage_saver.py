"""A coverage plugin that saves what Ray's workers run, every few seconds.

Ray ends its workers without letting Python finish, so that what coverage would save at the end is lost. Every
other process is left alone: one that ends while a thread saves can crash in SQLite.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import coverage

SECONDS = 3.0
WORKER = "default_worker.py"
"""Ray's program for workers."""


def coverage_init(registry: Any, options: dict[str, str]) -> None:
    """Called by coverage in every process that it measures, before there is a `sys.argv`."""
    if any(argument.endswith(WORKER) for argument in sys.orig_argv):
        threading.Thread(target=_save_now_and_then, name="coverage-saver", daemon=True).start()


def _save_now_and_then() -> None:
    while True:
        time.sleep(SECONDS)
        measuring = coverage.Coverage.current()
        if measuring is not None:
            measuring.save()
