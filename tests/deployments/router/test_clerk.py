"""What a request's row holds and takes, whatever the disk says."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.profile import load_profile
from deployments.chunks import ChunkBuilder, token_usage
from deployments.contract import ChatRequest, RequestContext
from deployments.ledger.journal import Journal, read_batch
from deployments.ledger.keeping import Keeping
from deployments.ledger.record import QueryRecord
from deployments.router.clerk import Clerk
from deployments.router.decision import Routed, RouteDecision
from deployments.router.metrics import RouterMetrics
from deployments.router.power import Meter

CATALOG = load_catalog()
PROFILE = load_profile("cpu", CATALOG)
DECISION = RouteDecision(variant="smollm2-135m", reason="simple", requested="auto", device="server")
REQUEST = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Why?"}]})


class Told(RouterMetrics):
    """What would be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[QueryRecord] = []
        self.spent: list[tuple[float, float]] = []

    def ended(self, record: QueryRecord) -> None:
        self.records.append(record)
        super().ended(record)

    def wrote(self, wall: float, cpu: float) -> None:
        self.spent.append((wall, cpu))
        super().wrote(wall, cpu)


async def written(clerk: Clerk) -> None:
    builder = ChunkBuilder("r1", "smollm2-135m")
    noted = clerk.begin(REQUEST, RequestContext("r1", key_id="key_1", received=time.time()))
    noted.record.route(DECISION, "miss", None)
    noted.see([Routed(DECISION, "miss"), builder.delta(0, content="So.")])
    noted.see([builder.delta(0, finish_reason="stop"), builder.usage(token_usage(5, 2, cached=0))])
    clerk.write_down(noted)
    await asyncio.sleep(0)


def clerk_for(journal: Journal, metrics: RouterMetrics) -> Clerk:
    return Clerk(PROFILE, CATALOG, journal, Keeping("text", b"salt"), Meter({}), metrics)


def test_the_row_is_in_the_journal_and_its_time_is_told(tmp_path: Path) -> None:
    journal, metrics = Journal(tmp_path), Told()
    asyncio.run(written(clerk_for(journal, metrics)))
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    (row,) = read_batch(path, 0, 10).rows
    assert (row["request_id"], row["query"], row["variant"], row["status"]) == ("r1", "Why?", "smollm2-135m", 200)
    assert (row["prompt_tokens"], row["completion_tokens"], row["finish_reason"]) == (5, 2, "stop")
    assert row["trace"]["reason"] == "simple"
    ((wall, cpu),) = metrics.spent
    assert cpu > 0 and 0 < wall < 1


def test_a_full_disk_takes_the_row_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(row: Any) -> None:
        raise OSError(28, "No space left on device")

    journal, metrics = Journal(tmp_path), Told()
    monkeypatch.setattr(journal, "append", full)
    asyncio.run(written(clerk_for(journal, metrics)))
    assert [record.completion_tokens for record in metrics.records] == [2]
    assert len(metrics.spent) == 1
