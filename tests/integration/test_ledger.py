"""What the Ledger keeps, whatever a row looks like, and what it says of it."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from configs.home import Home
from deployments.ledger.days import day_of
from deployments.ledger.deployment import Drain
from deployments.ledger.journal import Journal
from deployments.ledger.store import MIGRATIONS, LedgerStore, Refused
from tests.integration.conftest import SMALL, Stack, wait_for


def row(**fields: Any) -> dict[str, Any]:
    usual = {
        "request_id": uuid.uuid4().hex,
        "at": time.time(),
        "key_id": "key_of_a_test",
        "user": None,
        "session": None,
        "query": "What is this?",
        "requested": "auto",
        "device": "server",
        "variant": None,
        "trace": {},
        "cache": "bypass",
        "cache_distance": None,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "cached_tokens": 0,
        "ttft_ms": None,
        "latency_ms": 1.0,
        "cost_usd": 0.0,
        "energy_wh": 0.1,
        "electricity_usd": 0.0,
        "saved_usd": 0.0,
        "confidence": 0.5,
        "escalations": 1,
        "finish_reason": None,
        "status": 599,
        "error": None,
    }
    return usual | fields


@pytest.fixture
async def store(stack: Stack) -> AsyncIterator[LedgerStore]:
    found = LedgerStore(stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"])
    await found.connect()
    yield found
    await found.pool.execute("delete from queries where key_id = 'key_of_a_test'")
    await found.close()


def files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def test_a_row_that_comes_twice_is_there_once(store: LedgerStore) -> None:
    rows = [row(), row()]
    assert await store.insert(rows) == 2
    assert await store.insert([*rows, row()]) == 1


async def test_batches_leave_nothing_behind_in_the_catalog(store: LedgerStore) -> None:
    held = "select array_agg(oid order by oid) from pg_class where relnamespace = pg_my_temp_schema()"
    await store.insert([row()])
    before = await store.pool.fetchval(held)
    for _ in range(5):
        assert await store.insert([row()]) == 1
    assert before and await store.pool.fetchval(held) == before


async def test_a_row_that_is_refused_holds_up_no_other_and_is_kept_apart(
    store: LedgerStore,
    home: Home,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is not quoted in any log, as PostgreSQL would."""
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    good = [row() for _ in range(20)]
    bad = [
        row(prompt_tokens=2**40),
        row(query=None, user="c4n4ry-w0rd"),
        row(at=1e300),
        {"table": "of tomorrow", "id": "1", "at": time.time()},
        {"table": "feedback", "id": "1", "at": time.time(), "request_id": "r", "key_id": "k", "rating": "meh"},
        {},
    ]
    journal = Journal(tmp_path)
    for place, one in enumerate(good):
        journal.append(one)
        if place % 4 == 0 and bad:
            journal.append(bad[place // 4])
    journal.append(bad[-1])
    journal.close()
    drain = Drain(tmp_path, store)
    assert await drain.once() == len(good)
    assert drain.refused == len(bad)
    (refused,) = files(tmp_path, "refused-*.jsonl")
    kept = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [one["row"] for one in kept] == bad and all(one["why"] for one in kept)
    assert "a row was refused (NotNullViolationError)" in caplog.text
    assert "c4n4ry-w0rd" in refused.read_text()
    assert "c4n4ry-w0rd" not in caplog.text + (home.logs / "postgres.log").read_text()
    assert refused.stat().st_mode & 0o777 == 0o600
    assert files(tmp_path, "*.journal") == [], "all was read"
    with pytest.raises(Refused):
        await store.insert([row(), bad[0]])


async def test_days_have_partitions_and_old_ones_go_as_a_whole(store: LedgerStore) -> None:
    """Also of a clock that was moved: whatever day a row says it is of, it is kept."""
    today, long_ago, ahead = time.time(), 86_400.0 * 30, time.time() + 40 * 86_400
    rows = [row(at=today), row(at=long_ago), row(at=long_ago + 86_400), row(at=ahead)]
    assert await store.insert(rows) == 4
    assert await store.insert(rows) == 0, "the same rows again, of four days"
    assert await store.forget_before(day_of(long_ago + 86_400)) == ["queries_19700131"]
    assert await store.forget_before(day_of(long_ago + 86_400)) == []
    kept = await store.pool.fetch("select request_id from queries where key_id = 'key_of_a_test'")
    assert {one["request_id"] for one in kept} == {one["request_id"] for one in (rows[0], rows[2], rows[3])}
    assert await store.insert([rows[1]]) == 1, "one that comes late has its day made anew"
    assert len(await store.forget_before(day_of(long_ago + 2 * 86_400))) == 2


async def test_a_query_log_of_before_there_were_days_is_taken_over_whole(stack: Stack) -> None:
    url = stack.settings.environment(stack.credentials)["GROUPQWEN_DATABASE_URL"]
    owner = await asyncpg.connect(url)
    await owner.execute('drop database if exists "of_before"')
    await owner.execute('create database "of_before"')
    old = await asyncpg.connect(url.replace("/groupqwen?", "/of_before?"))
    await old.execute("create table migrations (name text primary key, at timestamptz default now())")
    for path in sorted(MIGRATIONS.glob("*.sql"))[:4]:
        await old.execute(path.read_text())
        await old.execute("insert into migrations (name) values ($1)", path.name)
    await old.execute(
        """insert into queries (request_id, at, key_id, query, requested, device, trace, cache, prompt_tokens,
        completion_tokens, cached_tokens, latency_ms, cost_usd, status, saved_usd)
        select 'r' || n, '2026-03-28T23:30:00Z'::timestamptz + n * interval '1 hour', 'key_of_a_test', 'q', 'auto',
        'server', '{}', 'miss', n, 1, 0, 1.0, 0.5, 200, 0.25 from generate_series(1, 100) n"""
    )
    await old.close()
    store = LedgerStore(url.replace("/groupqwen?", "/of_before?"))
    await store.connect()
    try:
        assert await store.count() == 100
        told = await store.pool.fetchrow("select sum(prompt_tokens) as p, sum(saved_usd) as s from queries")
        assert told is not None and (told["p"], told["s"]) == (5050, 25.0)
        days = await store.pool.fetch(
            "select inhrelid::regclass::text as name from pg_inherits i join pg_class c "
            "on c.oid = i.inhrelid where c.relkind = 'r' order by 1"
        )
        assert [one["name"] for one in days][:2] == ["queries_20260329", "queries_20260330"]
        assert await store.insert([row()]) == 1
    finally:
        await store.close()
        await owner.execute('drop database "of_before" with (force)')
        await owner.close()


def test_a_request_is_traced_by_its_id_and_counted(stack: Stack) -> None:
    answer = stack.ask("Say hi.", model=SMALL, max_tokens=2, user="ann")
    request_id = answer.headers["x-request-id"]
    stack.post("/feedback", {"request_id": request_id, "rating": "up", "comment": "well"})

    def found() -> dict[str, Any]:
        return dict(stack.get(f"/requests/{request_id}").json())

    wait_for(lambda: bool(found().get("feedback")), 60, lambda: f"it is not in the Ledger: {found()}")
    told = found()
    assert (told["variant"], told["user"], told["status"], told["finish_reason"]) == (SMALL, "ann", 200, "length")
    assert told["trace"]["reason"] and told["completion_tokens"] == 2
    assert told["saved_usd"] > 0, "the largest would have cost more"
    assert told["feedback"][0]["rating"] == "up"
    assert stack.get("/requests/nothing").status_code == 404
    traced = stack.run_cli("trace", request_id)
    assert traced.returncode == 0 and SMALL in traced.stdout and "up: well" in traced.stdout
    assert json.loads(stack.run_cli("trace", request_id, "--json").stdout)["request_id"] == request_id
    assert stack.run_cli("trace", "nothing").returncode == 1

    rows = {one["name"]: one for one in stack.get("/usage?by=variant&days=1").json()["rows"]}
    assert rows[SMALL]["requests"] >= 1 and rows[SMALL]["completion_tokens"] >= 2
    [day] = stack.get("/stats/daily?days=1").json()["rows"]
    assert day["name"] == time.strftime("%Y-%m-%d", time.gmtime())
    keys = [one["name"] for one in stack.get("/usage?by=key").json()["rows"]]
    assert told["key_id"] in keys
    shown = stack.run_cli("usage", "--by", "key", COLUMNS="200")
    assert shown.returncode == 0 and told["key_id"] in shown.stdout


def test_a_key_sees_its_own_rows_and_what_touches_others_is_written_down(stack: Stack) -> None:
    made = stack.post("/keys", {"name": "of a test"}).json()
    theirs = stack.ask("Say hi.", model=SMALL, max_tokens=2).headers["x-request-id"]
    wait_for(lambda: stack.get(f"/requests/{theirs}").status_code == 200, 60, "it is not in the Ledger")

    def told(path: str) -> httpx.Response:
        return httpx.get(stack.url + path, headers={"authorization": f"Bearer {made['secret']}"}, timeout=30)

    wait_for(lambda: told("/usage").status_code == 200, 20, "the key does not count")
    assert told("/usage?by=key").json()["rows"] == [], "it has asked nothing"
    assert told(f"/requests/{theirs}").status_code == 404
    assert told("/usage?key=key_000000000000").status_code == 400
    assert told("/audit").status_code == 403
    owner = {"authorization": f"Bearer {stack.key}"}
    httpx.delete(f"{stack.url}/keys/{made['id']}", headers=owner, timeout=30)
    assert wait_for_acts(stack, f"DELETE /v1/keys/{made['id']}")[0]["status"] == 200
    assert wait_for_acts(stack, "POST /v1/keys")[0]["key_id"].startswith("key_")


def wait_for_acts(stack: Stack, act: str) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [one for one in stack.get("/audit").json()["acts"] if one["act"] == act]

    wait_for(lambda: bool(found()), 60, "it was not written down")
    return found()
