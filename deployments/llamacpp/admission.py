"""Who is served next: a bounded queue that is fair between tenants and first-come within one.

Pure; the engine's thread owns it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Round-robin over tenants that have something waiting, so that one who queues a hundred requests
    delays another's first by one, not by a hundred."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0  # kept apart, so that other threads may ask for it

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for waiting in self._waiting.values():
            yield from waiting

    def push(self, tenant: str, item: T) -> None:
        self._waiting.setdefault(tenant, deque()).append(item)
        self._length += 1

    def push_front(self, tenant: str, item: T) -> None:
        """Put back something that had been admitted, before everything else."""
        self._waiting.setdefault(tenant, deque()).appendleft(item)
        self._length += 1
        self._waiting.move_to_end(tenant, last=False)

    def heads(self) -> list[tuple[str, T]]:
        """The next item of each tenant, in the order of their turns."""
        return [(tenant, waiting[0]) for tenant, waiting in self._waiting.items()]

    def pop(self, tenant: str) -> T:
        """Take that tenant's next item; its turn passes to the end of the round."""
        waiting = self._waiting[tenant]
        item = waiting.popleft()
        self._length -= 1
        if waiting:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return item

    def remove(self, item: T) -> bool:
        """Drop `item`, wherever it waits. False if it does not."""
        for tenant, waiting in self._waiting.items():
            if item in waiting:
                waiting.remove(item)
                self._length -= 1
                if not waiting:
                    del self._waiting[tenant]
                return True
        return False
