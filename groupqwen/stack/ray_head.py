"""Runs `ray start` under supervisord: `python -m groupqwen.stack.ray_head ray start --head …`.

A Ray that has died takes the application with it, and a new one knows nothing of it. So when supervisord starts
Ray a second time, what the first has left behind is ended (an orphaned HAProxy would go on taking requests), and
the application is brought back (`revival.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from configs.home import Home, home
from groupqwen.stack.processes import end, started_from

MOST_AN_HOUR = 5
"""Times that the application is brought back: one that takes Ray with it each time must not go on for ever."""


def main() -> None:
    """Become Ray."""
    own, supervisor = home(), psutil.Process(os.getppid())
    before = starts_before(own, supervisor)
    if before is not None:
        end(left_behind(own, supervisor))
        if before <= MOST_AN_HOUR:
            bring_back(own)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606


def starts_before(own: Home, supervisor: psutil.Process) -> int | None:
    """How often Ray was started in the last hour by this supervisord; None at its first start. Notes this one."""
    note = own.run / "ray-starts.json"
    identity = [supervisor.pid, supervisor.create_time()]
    try:
        noted = json.loads(note.read_text())
        starts = noted["starts"] if noted["supervisor"] == identity else []
    except (OSError, ValueError, KeyError, TypeError):
        starts = []
    recent = [at for at in starts if time.time() - at < 3600]
    note.write_text(json.dumps({"supervisor": identity, "starts": [*(recent or starts[-1:]), time.time()]}))
    return len(recent) if starts else None


def left_behind(own: Home, supervisor: psutil.Process) -> list[psutil.Process]:
    """What was started from this home and has no place under supervisord any more."""
    # In this order: what its services start meanwhile is theirs.
    found = started_from(own)
    kept = {supervisor.pid, os.getpid(), *(process.pid for process in supervisor.children(recursive=True))}
    return [process for process in found if process.pid not in kept]


def bring_back(own: Home) -> None:
    """Beside Ray, which must be there for it."""
    with (own.logs / "revival.log").open("a") as log:
        subprocess.Popen(
            [sys.executable, "-m", "groupqwen.stack.revival"],
            cwd=Path("/"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


if __name__ == "__main__":
    main()
