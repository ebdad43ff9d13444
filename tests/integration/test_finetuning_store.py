"""The rows of jobs, events and files in the real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from configs.finetuning import FinetuningRules
from deployments.contract import ChatError
from deployments.finetuning.asked import new_file_id, new_id
from deployments.finetuning.job import FileRoom, Job, StoredFile
from deployments.finetuning.states import check_file_room
from deployments.finetuning.store import FinetuningStore
from tests.deployments.finetuning.test_states import job
from tests.integration.conftest import Stack

STEPS, EVERY = 110_000, 10_000
"""Of a long job: a step, which is an event; checkpoints and evaluations."""


@pytest.fixture
async def store(stack: Stack) -> AsyncIterator[FinetuningStore]:
    found = FinetuningStore(stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"])
    await found.connect()
    yield found
    for table in ("finetuning_jobs", "finetuning_files"):
        await found.pool.execute(f"delete from {table} where key_id like 'key of a test%'")
    await found.close()


@pytest.fixture
async def kept(store: FinetuningStore) -> Job:
    """A job that has ended: nobody looks after it."""
    one = replace(job(), id=new_id(), key_id="key of a test", created=time.time())
    await store.add(one)
    assert await store.cancel(one.id) is not None
    return one


def events_of(job_id: str) -> Iterator[tuple[str, int, datetime, str, str]]:
    """Each step, and after some an evaluation and a checkpoint."""
    seq, now = 0, datetime.now(UTC)

    def row(kind: str, **data: Any) -> tuple[str, int, datetime, str, str]:
        nonlocal seq
        seq += 1
        return job_id, seq, now, kind, json.dumps(data)

    for step in range(1, STEPS + 1):
        yield row("progress", step=step, loss=1 / step)
        if step % EVERY == 0:
            yield row("evaluation", step=step, loss=2 / step)
            yield row("checkpoint", step=step)


async def test_checkpoints_of_a_long_job_come_in_pages_with_the_losses_of_their_time(
    store: FinetuningStore, kept: Job
) -> None:
    assert await store.checkpoints(kept.id, -1, 10) == []
    await store.pool.copy_records_to_table("finetuning_events", records=list(events_of(kept.id)))
    pages, before = [], -1
    while page := await store.checkpoints(kept.id, before, 4):
        pages.append([event.data["step"] for event, _ in page])
        for event, losses in page:
            step = event.data["step"]
            assert losses == {"train_loss": 1 / step, "valid_loss": 2 / step}
        before = page[-1][0].seq
    steps = list(range(STEPS, 0, -EVERY))
    assert pages == [steps[:4], steps[4:8], steps[8:]]
    plan = await store.pool.fetch(
        "explain select * from finetuning_events where job = $1 and kind = 'checkpoint' order by seq desc limit 4",
        kept.id,
    )
    assert "finetuning_events_kind" in "".join(line[0] for line in plan), "the others are read too"


async def test_what_was_told_in_this_attempt_is_found_among_many(store: FinetuningStore, kept: Job) -> None:
    now = datetime.now(UTC)
    rows = [
        (1, "state", {"state": "running"}),
        (2, "checkpoint", {"step": 1}),
        (3, "state", {"state": "stopped"}),
        (4, "progress", {"step": 2}),
    ]
    records = [(kept.id, seq, now, kind, json.dumps(data)) for seq, kind, data in rows]
    await store.pool.copy_records_to_table("finetuning_events", records=records)
    assert await store.told(kept) == ({"state": "stopped"}, True)
    assert await store.told(replace(kept, attempt_seq=2)) == ({"state": "stopped"}, False)
    assert await store.told(replace(kept, attempt_seq=3)) == (None, False)


def a_file(key_id: str, size: int = 10) -> StoredFile:
    return StoredFile(new_file_id(), key_id, time.time(), "chats.jsonl", size, 1, "0" * 64)


async def test_of_files_that_come_at_once_no_more_are_kept_than_a_key_may_have(store: FinetuningStore) -> None:
    mine, other = (f"key of a test {secrets.token_hex(4)}" for _ in range(2))
    rules = FinetuningRules.model_validate({"key_files": 3, "key_files_bytes": 100})

    async def add(file: StoredFile) -> str | None:
        try:
            await store.add_file(file, lambda room: check_file_room(rules, room, file.bytes))
        except ChatError as refused:
            return refused.code
        return None

    told = await asyncio.gather(*(add(a_file(mine)) for _ in range(12)))
    assert (told.count(None), told.count("file_quota")) == (3, 9)
    assert await add(a_file(other, 90)) is None, "another key has room of its own"
    assert await add(a_file(other, 11)) == "file_quota"
    room = await store.file_room(other)
    assert room == FileRoom(room.bytes, 1, 90) and room.bytes >= 120


async def test_a_key_sees_its_own_files_and_who_keeps_them_all_sees_all(store: FinetuningStore) -> None:
    # (The newest of all; PostgreSQL keeps microseconds.)
    mine, other = (replace(a_file(f"key of a test {n}"), created=4e9 + n) for n in range(2))
    for file in (mine, other):
        await store.add_file(file, lambda room: None)
    assert await store.files(mine.key_id, None, 9, newest=True) == [mine]
    assert (await store.files(None, None, 2, newest=True)) == [other, mine]
    assert (await store.files(None, other.id, 1, newest=True)) == [mine]
    assert await store.file(other.id, mine.key_id) is None and await store.file(other.id, None) == other
    assert not await store.remove_file(other.id, mine.key_id)
    assert await store.remove_file(other.id, None)
