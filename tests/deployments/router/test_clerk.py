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
from deployments.router.clerk import READ_AT_ONCE, Clerk, Noted
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


def test_of_an_answer_that_is_left_all_is_counted_that_was_said(tmp_path: Path) -> None:
    journal, builder = Journal(tmp_path), ChunkBuilder("r1", "smollm2-135m")
    words = [f"{n} " for n in range(READ_AT_ONCE * 2 + 7)]

    async def left(clerk: Clerk) -> Noted:
        noted = clerk.begin(REQUEST, RequestContext("r1", key_id="key_1", received=time.time()))
        noted.record.route(DECISION, "miss", None)
        for word in words:
            noted.see([builder.delta(0, content=word)])
        noted.record.fail(499, "the client went away")
        clerk.write_down(noted)
        return noted

    noted = asyncio.run(left(clerk_for(journal, Told())))
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    (row,) = read_batch(path, 0, 10).rows
    assert row["completion_tokens"] == len(words)
    assert noted.said == words


def test_a_full_disk_takes_the_row_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(row: Any) -> None:
        raise OSError(28, "No space left on device")

    journal, metrics = Journal(tmp_path), Told()
    monkeypatch.setattr(journal, "append", full)
    asyncio.run(written(clerk_for(journal, metrics)))
    assert [record.completion_tokens for record in metrics.records] == [2]
    assert len(metrics.spent) == 1


@pytest.mark.parametrize(
    ("keeps", "wanted", "finish", "kept"),
    [
        ("text", None, "stop", True),
        ("text", "hash", "stop", False),
        ("text", "none", "stop", False),
        ("hash", None, "stop", False),
        ("none", "text", "stop", True),
        ("text", None, "length", False),
    ],
)
def test_an_answer_can_be_rated_where_its_words_may_be_kept(
    tmp_path: Path, keeps: Any, wanted: Any, finish: Any, kept: bool
) -> None:
    """And where it ended by itself."""

    async def rated() -> bool:
        clerk = Clerk(PROFILE, CATALOG, journal, Keeping(keeps, b"salt"), Meter({}), Told())
        builder = ChunkBuilder("r1", "smollm2-135m")
        noted = clerk.begin(REQUEST, RequestContext("r1", key_id="key_1", query_text=wanted))
        noted.record.route(DECISION, "miss", None)
        for chunk in (
            builder.delta(0, content="S"),
            builder.delta(1, content="x"),
            builder.delta(0, content="o."),
        ):
            noted.see([chunk])
        noted.see([builder.delta(0, finish_reason=finish)])
        clerk.write_down(noted)
        assert not clerk.rated("r1", "key_2", True, None), "by somebody else"
        return clerk.rated("r1", "key_1", True, None)

    journal = Journal(tmp_path)
    assert asyncio.run(rated()) == kept
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    rows = [row for row in read_batch(path, 0, 10).rows if row.get("table") == "examples"]
    assert len(rows) == kept
    if kept:
        assert (rows[0]["answer"], rows[0]["messages"]) == ("So.", [{"role": "user", "content": "Why?"}])


def test_a_full_disk_loses_the_example_and_not_the_feedback(tmp_path: Path) -> None:
    class Full(Journal):
        def append(self, row: Any) -> None:
            if row.get("table") == "examples":
                raise OSError(28, "No space left on device")
            super().append(row)

    async def rated() -> bool:
        clerk = clerk_for(Full(tmp_path), Told())
        await written(clerk)
        return clerk.rated("r1", "key_1", True, None)

    assert asyncio.run(rated()) is False
