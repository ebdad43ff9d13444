"""What the Router does for the Ledger while somebody waits for an answer, and how long that takes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from configs.catalog import Catalog
from configs.profile import Profile
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.journal import Journal
from deployments.ledger.keeping import Keeping
from deployments.ledger.record import Progress, QueryRecord
from deployments.router.metrics import RouterMetrics
from deployments.router.power import Meter

logger = logging.getLogger("ray.serve")


class Spent:
    """Seconds while this is entered, altogether: by the clock, and of them those on a processor. (On a machine
    that is full they differ: whoever has begun is made to wait as well.)"""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.thread_time() - self._cpu


@dataclass
class Noted:
    """A request that is under way, and what was spent on its row so far."""

    record: QueryRecord
    progress: Progress
    spent: Spent = field(default_factory=Spent)

    def see(self, items: Iterable[object]) -> None:
        """Take note of a part of the answer."""
        with self.spent:
            for item in items:
                self.progress.see(item)


class Clerk:
    """Of one Router. Belongs to its event loop."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        journal: Journal,
        keeping: Keeping,
        meter: Meter,
        metrics: RouterMetrics,
    ) -> None:
        self._profile, self._catalog, self._journal, self._keeping = profile, catalog, journal, keeping
        self._meter, self._metrics = meter, metrics

    def begin(self, request: ChatRequest, context: RequestContext) -> Noted:
        """A row is begun."""
        spent = Spent()
        with spent:
            record = QueryRecord.begin(request, context, self._keeping)
            progress = Progress(context.received)
        return Noted(record, progress, spent)

    def write_down(self, noted: Noted) -> None:
        """The request has ended, however it did. Its row is in the journal before its client hears of the end; it
        is counted after that."""
        record = noted.record
        with noted.spent:
            record.drew(self._meter.take(record.request_id), self._profile.ledger.electricity_usd_per_kwh)
            record.finish(noted.progress, self._catalog, self._profile.variants)
            try:
                self._journal.append(record.as_row())
            except OSError:
                # The answer counts for more than its row; what can be said of it goes to the log.
                logger.exception("the journal took no row: %s", record.request_id)
        asyncio.get_running_loop().call_soon(self._count, noted)

    def _count(self, noted: Noted) -> None:
        self._metrics.ended(noted.record)
        self._metrics.wrote(noted.spent.wall, noted.spent.cpu)
