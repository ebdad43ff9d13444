"""Single keys from a terminal, without Enter, and without waiting for one."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed() -> Iterator[Callable[[float], str]]:
    """What waits at most so many seconds for a key: its character, or nothing. Where no keyboard is, it only
    waits."""
    if not sys.stdin.isatty():
        yield _nobody
        return
    import termios  # Windows has none.
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read(seconds: float) -> str:
        if not select.select([terminal], [], [], seconds)[0]:
            return ""
        # What arrows and the like send in one is no key of ours, and none of its letters is.
        typed = os.read(terminal, 64).decode(errors="replace")
        return "" if typed.startswith("\x1b") else typed[:1]

    try:
        tty.setcbreak(terminal)
        yield read
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _nobody(seconds: float) -> str:
    time.sleep(seconds)
    return ""
