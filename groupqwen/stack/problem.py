"""What stands in the way of starting, in one line that says what to do."""

from __future__ import annotations


class StartProblem(RuntimeError):
    """`up` or `down` cannot go on; the message says why and what to do."""
