"""A coverage plugin for what Ray starts: saves what its workers run, and leaves its own programs unmeasured.

Ray ends its workers without letting Python finish, so that what coverage would save at the end is lost: there it
is saved every few seconds. Not elsewhere: a process that ends while a thread saves can crash in SQLite.

In Ray's own (dashboard, agents, monitors, Serve's controller and proxies) none of our code runs, and being traced
makes all Python three times as slow, also what is not measured.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coverage
from coverage.collector import Collector

SECONDS = 3.0
WORKER = "default_worker.py"
"""Ray's program for workers."""
STARTS_NONE_OF_OURS = "dashboard.py"
"""Ray's program whose children run none of our code either."""
SERVES_OWN = ("ray::ServeController", "ray::ProxyActor", "ray::HAProxyManager")
"""What workers are called that are Serve's own actors."""


def coverage_init(registry: Any, options: dict[str, str]) -> None:
    """Called by coverage in every process that it measures, before there is a `sys.argv`."""
    program = program_of(sys.orig_argv)
    if program.endswith(WORKER):
        threading.Thread(target=_save_now_and_then, name="coverage-saver", daemon=True).start()
    elif is_rays(program):
        _measure_nothing(program.endswith(STARTS_NONE_OF_OURS))


def program_of(command: Sequence[str]) -> str:
    """What an interpreter's command line runs: a file, a module or lines of code; nothing: nothing of that."""
    return next((argument for argument in command[1:] if not argument.startswith("-")), "")


def is_rays(program: str) -> bool:
    """Whether it is one of Ray's own, which start our code at most in processes of their own."""
    return program.startswith("ray.") or "/site-packages/ray/" in program or Path(program).name in ("ray", "serve")


def _measure_nothing(nor_children: bool) -> None:
    """Coverage has no way to be told so once it starts; by then it has passed on that children are measured."""

    def start(collector: Collector) -> None:
        if nor_children:
            os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

    Collector.start = start  # type: ignore[method-assign]
    Collector.stop = lambda self: None  # type: ignore[method-assign]


def _save_now_and_then() -> None:
    while True:
        time.sleep(SECONDS)
        measuring = coverage.Coverage.current()
        if measuring is not None and _title().startswith(SERVES_OWN):
            measuring.stop()
            measuring.save()
            return
        if measuring is not None:
            measuring.save()


def _title() -> str:
    """What this process is called: a worker is named after its actor. Nothing yet while it imports Ray."""
    title = getattr(sys.modules.get("ray._raylet"), "getproctitle", None)
    return "" if title is None else str(title())
