"""What the Router does for the Ledger while somebody waits for an answer, and how long that takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from configs.catalog import Catalog
from configs.profile import Profile
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.journal import Journal
from deployments.ledger.keeping import Keeping
from deployments.ledger.record import Progress, QueryRecord
from deployments.router.metrics import RouterMetrics
from deployments.router.power import Meter

logger = logging.getLogger("ray.serve")


@dataclass
class Noted:
    """A request that is under way. `seconds`: what was spent on its row so far."""

    record: QueryRecord
    progress: Progress
    seconds: float

    def see(self, items: Iterable[object]) -> None:
        """Take note of a part of the answer."""
        began = time.perf_counter()
        for item in items:
            self.progress.see(item)
        self.seconds += time.perf_counter() - began


class Clerk:
    """Of one Router."""

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
        began = time.perf_counter()
        noted = Noted(QueryRecord.begin(request, context, self._keeping), Progress(context.received), 0.0)
        noted.seconds = time.perf_counter() - began
        return noted

    def write_down(self, noted: Noted) -> None:
        """The request has ended, however it did: its row goes on its way."""
        began = time.perf_counter()
        record = noted.record
        record.drew(self._meter.take(record.request_id), self._profile.ledger.electricity_usd_per_kwh)
        record.finish(noted.progress, self._catalog, self._profile.variants)
        try:
            self._journal.append(record.as_row())
        except OSError:
            # The answer counts for more than its row; what can be said of it goes to the log.
            logger.exception("the journal took no row: %s", record.request_id)
        self._metrics.ended(record)
        self._metrics.wrote(noted.seconds + time.perf_counter() - began)
