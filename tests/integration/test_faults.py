"""Faults while requests run: what fails, fails in OpenAI's terms; all comes back by itself; no row of the ledger
is lost, none is there twice. With GROUPQWEN_FAULT_TABLE=FILE the table for docs/OPERATIONS.md is written."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from deployments.ledger.journal import Journal
from groupqwen.stack.supervisor import Supervisor
from tests.integration.conftest import MIDDLE, SMALL, Stack, wait_for
from tests.integration.test_ledger import row

TRAFFIC_SECONDS = 9.0
KILL_AFTER = 2.0
CLIENTS = 4


@dataclass
class Seen:
    """What clients saw of one fault."""

    complete: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    """Request ids of complete answers: each must have a row."""


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, tuple[Seen, float]]]:
    rows: dict[str, tuple[Seen, float]] = {}
    yield rows
    target = os.environ.get("GROUPQWEN_FAULT_TABLE")
    if target:
        lines = [
            "| fault | complete answers | failed requests | well again after | rows lost |",
            "|---|---|---|---|---|",
        ]
        for part, (seen, back) in rows.items():
            failures = ", ".join(f"{n} × {what}" for what, n in seen.failures.items()) or "none"
            lines.append(f"| {part} | {seen.complete} | {failures} | {back:.1f} s | 0 |")
        Path(target).write_text("\n".join(lines) + "\n")


PARTS = ("variant", "Router", "Gateway", "SemanticCache", "Classifier", "Ledger", "Redis", "PostgreSQL")


@pytest.mark.parametrize("part", [*PARTS, "Redis, empty afterwards"])
def test_kill_9_while_requests_run(stack: Stack, table: dict[str, tuple[Seen, float]], part: str) -> None:
    stack.wait_until_well()
    victim = find(stack, part)
    seen, killed_at = asyncio.run(traffic(stack, lambda: victim.send_signal(signal.SIGKILL)))
    if part.endswith("empty afterwards"):
        empty_redis(stack)
    assert not psutil.pid_exists(victim.pid) or find(stack, part).pid != victim.pid
    stack.wait_until_well(60)
    back = time.monotonic() - killed_at - max(0.0, TRAFFIC_SECONDS - KILL_AFTER)
    assert seen.wrong == []
    assert seen.complete > 0
    assert stack.ask("And now?", model=SMALL, max_tokens=3).status_code == 200
    every_row_is_there_once(stack, seen)
    table[f"{part} killed" if "," not in part else "Redis killed, empty afterwards"] = (seen, max(0.0, back))


def test_postgresql_that_is_away_for_a_minute_misses_nothing(
    stack: Stack, table: dict[str, tuple[Seen, float]]
) -> None:
    """And the Ledger is killed meanwhile: what is spooled is copied by another."""
    stack.wait_until_well()
    services = Supervisor(stack.settings)._rpc().supervisor
    began = time.monotonic()
    services.stopProcess("postgres")
    try:
        seen, _ = asyncio.run(traffic(stack, lambda: stack.replica("Ledger").kill()))
        wait_for(lambda: "ledger" in stack.health().get("parts", {}), 60, "the Ledger was not restarted")
        assert stack.health()["status"] == "degraded"
        assert stack.get("/usage").status_code == 503, "what needs PostgreSQL says so"
        assert stack.ask("Is anybody there?", model=SMALL, max_tokens=2).status_code == 200
        ledger = stack.health()["parts"]["ledger"]
        assert ledger["last_error"]["error"] and ledger["pending_bytes"] > 0
        time.sleep(max(0.0, 60 - (time.monotonic() - began)))
    finally:
        services.startProcess("postgres")
    back_at = time.monotonic()
    stack.wait_until_well()
    every_row_is_there_once(stack, seen)
    table["PostgreSQL away for 60 s, the Ledger killed meanwhile"] = (seen, time.monotonic() - back_at)


def test_a_disk_that_is_full_misses_nothing(stack: Stack, table: dict[str, tuple[Seen, float]]) -> None:
    """The Router may write no file at all for a while: its rows wait, and it says so."""
    stack.wait_until_well()
    router = stack.replica("Router")
    before = router.rlimit(psutil.RLIMIT_FSIZE)
    assert before is not None
    said: list[dict[str, object]] = []
    try:
        seen, _ = asyncio.run(traffic(stack, lambda: router.rlimit(psutil.RLIMIT_FSIZE, (1, before[1]))))
        said.append(stack.health()["parts"]["router"])
    finally:
        router.rlimit(psutil.RLIMIT_FSIZE, before)
    back_at = time.monotonic()
    assert said[0]["ok"] is False and "rows wait for room" in str(said[0]["error"])
    assert seen.wrong == [] and not seen.failures, "nobody who asks notices"
    stack.wait_until_well()
    every_row_is_there_once(stack, seen)
    table["the spool's disk full for 7 s"] = (seen, time.monotonic() - back_at)


def test_half_a_record_holds_up_no_other(stack: Stack) -> None:
    """As a writer leaves it that is killed in the middle of a row; and one whose bytes have turned on the disk."""
    folder = stack.settings.home.journal
    damaged = stack.health()["parts"]["ledger"]["damaged_lines"]
    writer = Journal(folder)
    path = max(folder.glob("*.journal"), key=lambda each: each.stat().st_mtime_ns)
    rows = [{**row(), "key_id": "key_of_a_fault"} for _ in range(3)]
    for one in rows:
        writer.append(one)
    writer.close()
    with path.open("ab") as file:
        file.write(b'00000000 {}\n00ff00ff {"request_id": "ha')
    identities = {one["request_id"] for one in rows}
    wait_for(lambda: identities <= set(stack.ledger_ids()), 60, "rows before the half one are missing")
    wait_for(lambda: not path.exists(), 60, "a file whose writer is gone stays")
    assert stack.health()["parts"]["ledger"]["damaged_lines"] == damaged + 1


def every_row_is_there_once(stack: Stack, seen: Seen) -> None:
    """Of what was answered while a fault went on."""
    wait_for(lambda: set(seen.answered) <= set(stack.ledger_ids()), 60, "rows of answered requests are missing")
    counted = Counter(stack.ledger_ids())
    assert [identity for identity in seen.answered if counted[identity] != 1] == []


def empty_redis(stack: Stack) -> None:
    """As if it had started on another disk."""
    redis = Redis.from_url(stack.settings.environment(stack.credentials)["GROUPQWEN_REDIS_URL"])
    wait_for(lambda: answers(redis), 60, "Redis did not come back")
    redis.flushall()


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def find(stack: Stack, part: str) -> psutil.Process:
    if part == "variant":
        return stack.replica(SMALL)
    if part.startswith("Redis"):
        # (Ray names Redis in the command lines of its own processes.)
        return stack.processes("redis-server")[0]
    if part == "PostgreSQL":
        # The postmaster: the parent of the others.
        family = stack.processes("postgres")
        pids = {process.pid for process in family}
        return next(process for process in family if process.ppid() not in pids)
    return stack.replica(part)


async def traffic(stack: Stack, fault: Callable[[], object]) -> tuple[Seen, float]:
    """Clients that stream answers all the time, and the fault in the middle of it; when that was."""
    seen = Seen()
    until = time.monotonic() + TRAFFIC_SECONDS
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, headers=stack.headers) as session:

        async def client(number: int) -> None:
            turn = 0
            while time.monotonic() < until:
                turn += 1
                body = {
                    "model": SMALL if (number + turn) % 3 else MIDDLE,
                    "messages": [{"role": "user", "content": f"Tell me about {number * 1000 + turn}."}],
                    "stream": True,
                    "max_tokens": 12,
                }
                await one(session, stack.url, body, seen)

        async def strike() -> float:
            await asyncio.sleep(KILL_AFTER)
            fault()
            return time.monotonic()

        striking = asyncio.create_task(strike())
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        return seen, await striking


async def one(session: aiohttp.ClientSession, url: str, body: dict[str, object], seen: Seen) -> None:
    """One request; whatever is neither a complete answer nor an error in OpenAI's shape is wrong."""
    try:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            identity = response.headers.get("x-request-id", "")
            if response.status != 200:
                error = json.loads(await response.text())["error"]
                seen.failures[f"{response.status} {error['code']}"] += 1
                await asyncio.sleep(0.3)
                return
            last = b""
            async for line in response.content:
                if line.strip():
                    last = line.strip()
            if last == b"data: [DONE]":
                seen.complete += 1
                seen.answered.append(identity)
            elif b'"error"' in last:
                error = json.loads(last.removeprefix(b"data: "))["error"]
                seen.failures[f"error event {error['code']}"] += 1
            else:
                seen.wrong.append(f"the stream ended with {last!r}")
    except aiohttp.ClientError as error:
        # Only where the process that holds the connection died can the connection itself break.
        seen.failures[f"connection lost ({type(error).__name__})"] += 1
        await asyncio.sleep(0.3)
