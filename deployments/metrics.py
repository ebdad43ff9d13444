"""A gauge that stays. Ray lets go of one that has not been set for twice its report interval (4 s here), so that a
worker that died is not counted; but what is set when something happens, or once a minute, would then be missing
from most scrapes."""

from __future__ import annotations

import threading
import time
from functools import cache
from weakref import WeakSet

from ray.serve import metrics

AGAIN_SECONDS = 1.0


class Gauge:
    """Of one replica: what it was last set to is told again and again, until it is forgotten."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        self._gauge = metrics.Gauge(name, description, tag_keys)
        self._last: dict[tuple[tuple[str, str], ...], float] = {}
        _all.add(self)
        _telling()

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        """What it is now, for these tags."""
        self._last[tuple(sorted((tags or {}).items()))] = value
        self._gauge.set(value, dict(tags or {}))

    def forget(self, tags: dict[str, str]) -> None:
        """There is nothing to say of these tags any more; they are gone from the metrics within seconds."""
        self._last.pop(tuple(sorted(tags.items())), None)

    def again(self) -> None:
        """Tell all that was told."""
        for tags, value in list(self._last.items()):
            self._gauge.set(value, dict(tags))


_all: WeakSet[Gauge] = WeakSet()


@cache
def _telling() -> threading.Thread:
    """The thread that does so for all of this process; not a task, because not every event loop here is free."""
    thread = threading.Thread(target=_tell, name="gauges", daemon=True)
    thread.start()
    return thread


def _tell() -> None:
    while True:
        time.sleep(AGAIN_SECONDS)
        for gauge in list(_all):
            gauge.again()
