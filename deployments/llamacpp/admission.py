"""Who is served next: fair between tenants, and within one the shortest first.

A tenant's items are in the order in which they would be done if each had begun when it came. So a short question
overtakes a long one that came a little before it, and nobody is overtaken for longer than it will take itself.
Pure; the engine's thread owns it.
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Round-robin over tenants that have something waiting, so that one who queues a hundred requests
    delays another's first by one, not by a hundred."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, list[tuple[float, int, T]]] = OrderedDict()
        self._length = 0  # kept apart, so that other threads may ask for it
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for waiting in self._waiting.values():
            for _, _, item in waiting:
                yield item

    def push(self, tenant: str, item: T, due: float = 0.0) -> None:
        """`due`: when it would be done, had it begun at once; of equals the first comes first."""
        waiting = self._waiting.setdefault(tenant, [])
        bisect.insort(waiting, (due, next(self._numbers), item), key=lambda entry: entry[:2])
        self._length += 1

    def push_front(self, tenant: str, item: T) -> None:
        """Put back something that had been admitted, before everything else."""
        self._waiting.setdefault(tenant, []).insert(0, (float("-inf"), -next(self._numbers), item))
        self._length += 1
        self._waiting.move_to_end(tenant, last=False)

    def heads(self) -> list[tuple[str, T]]:
        """The next item of each tenant, in the order of their turns."""
        return [(tenant, waiting[0][2]) for tenant, waiting in self._waiting.items()]

    def pop(self, tenant: str) -> T:
        """Take that tenant's next item; its turn passes to the end of the round."""
        waiting = self._waiting[tenant]
        _, _, item = waiting.pop(0)
        self._length -= 1
        if waiting:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return item

    def remove(self, item: T) -> bool:
        """Drop `item`, wherever it waits. False if it does not."""
        for tenant, waiting in self._waiting.items():
            place = next((at for at, entry in enumerate(waiting) if entry[2] is item), None)
            if place is not None:
                del waiting[place]
                self._length -= 1
                if not waiting:
                    del self._waiting[tenant]
                return True
        return False
