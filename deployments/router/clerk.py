"""What the Router does for the Ledger while somebody waits for an answer, and how long that takes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from openai.types.chat import ChatCompletionChunk

from configs.catalog import Catalog
from configs.profile import Profile
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.examples import Answered, Answers, plain
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


READ_AT_ONCE = 64
"""Parts of an answer. Between two tokens of a variant a processor's caches forget what looks at them, so that each
look costs more than the reading."""


@dataclass
class Noted:
    """A request that is under way, and what was spent on its row so far (but for putting parts of its answer
    aside)."""

    record: QueryRecord
    progress: Progress
    spent: Spent = field(default_factory=Spent)
    said: list[str] = field(default_factory=list)
    """The answer, in pieces."""
    _unread: list[object] = field(default_factory=list)

    def see(self, items: Iterable[object]) -> None:
        """Take note of a part of the answer: at once until it has begun, later together."""
        self._unread += items
        if self.progress.first_token is None or len(self._unread) >= READ_AT_ONCE:
            with self.spent:
                self.read()

    def read(self) -> None:
        """What was put aside."""
        for item in self._unread:
            if isinstance(item, ChatCompletionChunk):
                self.progress.see(item)
                if self.record.quotable:
                    self.said += [c.delta.content for c in item.choices if c.index == 0 and c.delta.content]
        self._unread.clear()


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
        self._answers = Answers(profile.ledger.examples)

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
            noted.read()
            record.drew(self._meter.take(record.request_id), self._profile.ledger.electricity_usd_per_kwh)
            record.finish(noted.progress, self._catalog, self._profile.variants)
            try:
                self._journal.append(record.as_row())
            except OSError:
                # The answer counts for more than its row; what can be said of it goes to the log.
                logger.exception("the journal took no row: %s", record.request_id)
        self._remember(noted)
        asyncio.get_running_loop().call_soon(self._count, noted)

    def _remember(self, noted: Noted) -> None:
        """An answer that may still be rated."""
        record = noted.record
        if not record.quotable or record.request is None or (record.status, record.finish_reason) != (200, "stop"):
            return
        messages = plain(record.request.messages)
        if messages is not None:
            answered = Answered(record.key_id, record.variant, messages, "".join(noted.said))
            self._answers.keep(record.request_id, answered)

    def rated(self, request_id: str, key_id: str, good: bool, correction: str | None) -> bool:
        """Somebody has said something of an answer: it goes to the Ledger as an example, if it is remembered."""
        row = self._answers.rated(request_id, key_id, good, correction)
        if row is None:
            return False
        try:
            self._journal.append(row)
        except OSError:
            logger.exception("the journal took no example: %s", request_id)
            return False
        return True

    def _count(self, noted: Noted) -> None:
        self._metrics.ended(noted.record)
        self._metrics.wrote(noted.spent.wall, noted.spent.cpu)
