"""How long a request's row takes of its time: as the Router has counted it under load, and by itself."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from configs.catalog import load_catalog
from configs.profile import load_profile
from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.journal import Journal
from deployments.ledger.keeping import Keeping
from deployments.router.clerk import Clerk, Spent
from deployments.router.decision import Attempt, Candidate, Item, Routed, RouteDecision
from deployments.router.metrics import RouterMetrics
from deployments.router.power import Meter

METRIC = "ray_groupqwen_ledger_work_seconds"
BUCKET = re.compile(rf"^{METRIC}_bucket\{{(.*)\}} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
TOKENS = 24


@dataclass(frozen=True)
class Histogram:
    """Prometheus's: `counts[k]` observations of at most `bounds[k]` seconds; the last bound is infinite."""

    bounds: Sequence[float]
    counts: Sequence[float]

    @property
    def count(self) -> int:
        return round(self.counts[-1]) if self.counts else 0

    def quantile(self, share: float) -> float:
        """Seconds, drawn straight between the bounds, as Prometheus does; the last finite bound for what lies
        beyond it. Raises `ValueError` where nothing was observed."""
        if not self.count:
            raise ValueError("nothing was observed")
        rank = share * self.counts[-1]
        for (low, below), (high, upto) in pairwise(zip((0.0, *self.bounds), (0.0, *self.counts), strict=True)):
            if upto >= rank:
                return (
                    low if high == float("inf") else low + (high - low) * (rank - below) / max(1.0, upto - below)
                )
        raise AssertionError("the last bound is infinite")

    def within(self, seconds: float) -> float:
        """The share that took no longer than one of the bounds. Raises `ValueError` for what is none."""
        return self.counts[list(self.bounds).index(seconds)] / self.counts[-1]


def read_histogram(text: str, clock: str) -> Histogram:
    """The Router's, by one of its clocks (wall, cpu), from what `/v1/metrics` says; several Routers' together."""
    counts: dict[float, float] = defaultdict(float)
    for written, count in BUCKET.findall(text):
        labels = dict(LABEL.findall(written))
        if labels["clock"] == clock:
            counts[float(labels["le"])] += float(count)
    bounds = sorted(counts)
    return Histogram(bounds, [counts[bound] for bound in bounds])


async def alone(requests: int) -> list[Spent]:
    """So many rows, one after the other, in this process: a whole answer's each."""
    catalog = load_catalog()
    profile = load_profile("cpu", catalog)
    with tempfile.TemporaryDirectory(prefix="groupqwen-") as folder:
        journal = Journal(Path(folder))
        clerk = Clerk(profile, catalog, journal, Keeping("text", b"salt"), Meter({}), RouterMetrics())
        spent = []
        for number in range(requests):
            spent.append(_one(clerk, f"{number:032x}"))
            await asyncio.sleep(0)
        journal.close()
    return spent[requests // 10 :]


def _one(clerk: Clerk, request_id: str) -> Spent:
    question = {"role": "user", "content": "Why is the sky blue, and what colour is it on Mars?"}
    request = ChatRequest.model_validate({"model": "auto", "messages": [question], "user": "load"})
    decision, items = _answer(request_id)
    context = RequestContext(request_id, key_id="key_0123456789ab", received=time.time())
    noted = clerk.begin(request, context)
    noted.record.route(decision, "miss", 0.4)
    for batch in items:
        noted.see(batch)
    clerk.write_down(noted)
    return noted.spent


def _answer(request_id: str) -> tuple[RouteDecision, Iterable[list[Item]]]:
    chosen = "qwen2.5-coder-0.5b"
    decision = RouteDecision(
        variant=chosen,
        reason="a simple question: the smallest that is likely to get it right",
        requested="auto",
        device="server",
        complexity=0.31,
        level="simple",
        task="chat",
        candidates=(
            Candidate("smollm2-135m", "too small for this level", 0.3, 0.1, 0.8),
            Candidate(chosen, None, 0.5, 0.2, 1.4),
            Candidate("qwen2.5-coder-1.5b", "dearer", 0.6, 0.6, 3.1),
        ),
        attempts=(Attempt(chosen, "answered", TOKENS, 1234.5),),
    )
    builder = ChunkBuilder(request_id, chosen)
    said: list[list[Item]] = [[builder.delta(0, content=f" word{number}")] for number in range(TOKENS)]
    end: list[Item] = [builder.delta(0, finish_reason="length"), builder.usage(token_usage(40, TOKENS, cached=8))]
    return decision, [[Routed(decision, "miss", 0.4)], *said, end]
