from __future__ import annotations

import asyncio
import time

import pytest

from deployments.residency import gate as gates
from deployments.residency.gate import Gate, NotReady
from tests.waiting import until


def nobody() -> None:
    raise AssertionError("asked although it was open")


async def inside(gate: Gate, leave: asyncio.Event) -> str:
    async with gate.passage(5, lambda: None):
        await leave.wait()
        return "answered"


async def test_an_open_gate_asks_nobody() -> None:
    gate = Gate()
    gate.open()
    async with gate.passage(1, nobody):
        assert gate.inside == 1
    assert (gate.inside, gate.passed) == (0, 1)


async def test_waiters_go_in_together_when_it_opens() -> None:
    gate, leave, asked = Gate(), asyncio.Event(), []
    leave.set()

    async def one() -> None:
        async with gate.passage(5, lambda: asked.append(1)):
            pass

    tasks = [asyncio.create_task(one()) for _ in range(3)]
    await until(lambda: len(asked) == 3)
    await until(lambda: gate.waiting == 3)
    gate.open()
    await asyncio.gather(*tasks)
    assert (gate.waiting, gate.passed) == (0, 3)


async def test_who_waits_too_long_is_told() -> None:
    gate = Gate()
    with pytest.raises(NotReady, match=r"within 0.1 s"):
        async with gate.passage(0.1, lambda: None):
            raise AssertionError
    assert (gate.waiting, gate.inside) == (0, 0)


async def test_who_waits_asks_again_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "REMIND_SECONDS", 0.02)
    gate, asked = Gate(), []

    def ask() -> None:
        asked.append(1)
        if len(asked) == 3:
            gate.open()

    async with gate.passage(60, ask):
        assert len(asked) == 3


async def test_who_leaves_at_once_has_asked_for_nothing() -> None:
    gate, asked = Gate(), []

    async def waits() -> None:
        async with gate.passage(5, lambda: asked.append(1)):
            raise AssertionError

    waiter = asyncio.create_task(waits())
    await until(lambda: gate.waiting)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await asyncio.sleep(2 * gates.GRACE_SECONDS)
    assert not asked


async def test_a_failed_load_is_told_to_all_who_wait() -> None:
    gate, leave = Gate(), asyncio.Event()
    tasks = [asyncio.create_task(inside(gate, leave)) for _ in range(2)]
    await until(lambda: gate.waiting == 2)
    gate.fail("no memory")
    assert [str(end) for end in await asyncio.gather(*tasks, return_exceptions=True)] == 2 * ["no memory"]


async def test_a_failed_load_is_told_to_who_is_just_about_to_ask_again() -> None:
    """A busy machine: the waiter's reminder is due, but its turn has not come yet."""
    gate = Gate()
    waiter = asyncio.create_task(inside(gate, asyncio.Event()))
    await asyncio.sleep(0)
    time.sleep(2 * gates.GRACE_SECONDS)  # noqa: ASYNC251
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate.fail("no memory")
    with pytest.raises(NotReady, match="no memory"):
        await waiter


async def test_draining_lets_nobody_in_and_waits_for_the_last_one_out() -> None:
    gate, leave = Gate(), asyncio.Event()
    gate.open()
    first = asyncio.create_task(inside(gate, leave))
    await until(lambda: gate.inside)
    draining = asyncio.create_task(gate.drain())
    await until(lambda: not gate.is_open)
    late = asyncio.create_task(inside(gate, leave))
    await until(lambda: gate.waiting == 1)
    assert not draining.done()
    leave.set()
    await draining
    assert await first == "answered"
    assert not late.done()
    gate.open()
    assert await late == "answered"


async def test_who_leaves_while_waiting_is_forgotten() -> None:
    gate, leave = Gate(), asyncio.Event()
    waiter = asyncio.create_task(inside(gate, leave))
    await until(lambda: gate.waiting)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert gate.waiting == 0
    gate.open()
    await asyncio.wait_for(gate.drain(), 1)
