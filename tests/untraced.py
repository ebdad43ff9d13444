"""Where coverage does not look: tracing makes all Python slow, also what is not measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untraced() -> Iterator[None]:
    """For what computes for long in other people's code or the tests' own; what it runs of ours must be tested
    elsewhere."""
    tracing = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracing)
