from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.router import nodes
from deployments.router.nodes import NodeGone, Nodes
from tests.waiting import until


class Machine:
    """Answers, or does not."""

    def __init__(self) -> None:
        self.there = True
        self.silent = False

    async def status(self) -> str:
        if self.silent:
            await asyncio.sleep(60)
        if not self.there:
            raise ConnectionError
        return "awake"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(nodes, "ANSWER_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["says no", "says nothing"])
async def test_what_does_not_answer_is_away_until_it_does(how: str) -> None:
    machine = Machine()
    watched = Nodes({"v": machine.status})
    assert watched.away == {"v"}, "nothing is offered that has not been seen"
    watch = asyncio.create_task(watched.watch())
    away = watched.away
    await until(lambda: not away)
    machine.silent, machine.there = how == "says nothing", how != "says no"
    await until(lambda: away == {"v"})
    machine.silent, machine.there = False, True
    await until(lambda: not away)
    watch.cancel()


@pytest.mark.usefixtures("quick")
async def test_one_unanswered_question_is_none() -> None:
    machine = Machine()
    watched = Nodes({"v": machine.status})
    await watched._look("v")
    machine.there = False
    await watched._look("v")
    assert watched.away == set()
    await watched._look("v")
    assert watched.away == {"v"}


async def steps(*items: int, hang: bool = False) -> AsyncIterator[int]:
    for item in items:
        yield item
    if hang:
        await asyncio.sleep(60)


async def test_what_is_said_passes_while_it_is_there() -> None:
    watched = Nodes({"v": Machine().status})
    await watched._look("v")
    assert [item async for item in watched.until_gone("v", steps(1, 2, 3))] == [1, 2, 3]


async def test_who_waits_for_one_that_goes_is_told() -> None:
    watched = Nodes({"v": Machine().status})
    await watched._look("v")
    heard = []

    async def listens() -> None:
        async for item in watched.until_gone("v", steps(1, hang=True)):
            heard.append(item)  # noqa: PERF401

    listening = asyncio.create_task(listens())
    await until(lambda: heard)
    watched.leaves("v")
    with pytest.raises(NodeGone):
        await asyncio.wait_for(listening, 5)
    assert heard == [1]


async def test_an_error_of_the_stream_is_its_own() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("its own")

    watched = Nodes({"v": Machine().status})
    await watched._look("v")
    with pytest.raises(ValueError, match="its own"):
        _ = [item async for item in watched.until_gone("v", broken())]
