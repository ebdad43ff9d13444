"""Runs `ray start` under supervisord: `python -m groupqwen.stack.ray_head ray start --head …`.

A Ray that has died takes the application with it, and a new one knows nothing of it. So when supervisord starts
Ray a second time, what the first has left behind is ended (an orphaned HAProxy would go on taking requests), and
the application is deployed again, as it was started last.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from configs.home import Home, home
from groupqwen.stack.processes import end, started_from


def main() -> None:
    """Become Ray."""
    own = home()
    if started_again(own, os.getppid()):
        end(left_behind(own, os.getppid()))
        deploy_again(own)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606


def started_again(own: Home, supervisor: int) -> bool:
    """Whether this supervisord (a process id) has started Ray before; notes that it has."""
    note = own.run / "ray-started-by"
    before = note.read_text() if note.is_file() else ""
    note.write_text(str(supervisor))
    return before == str(supervisor)


def left_behind(own: Home, supervisor: int) -> list[psutil.Process]:
    """What was started from this home and has no place under supervisord any more."""
    kept = {supervisor, os.getpid()}
    kept |= {process.pid for process in psutil.Process(supervisor).children(recursive=True)}
    return [process for process in started_from(own) if process.pid not in kept]


def deploy_again(own: Home) -> None:
    """Beside Ray, which must be there for it. It waits for an `up` that is at work, and then has nothing to do."""
    with (own.logs / "revival.log").open("a") as log:
        subprocess.Popen(
            [sys.executable, "-m", "groupqwen.cli", "deploy"],
            cwd=Path("/"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


if __name__ == "__main__":
    main()
