"""The cache's entries in the group's own Redis, as two replicas see them that know nothing of each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from deployments.cache.answer import CachedAnswer
from deployments.cache.store import CacheStore, Kept, as_bytes, connect, get_exact
from tests.integration.conftest import Stack

ANSWER = CachedAnswer("small", "Paris.", None, 5, 2, 0)
DIMENSIONS = 8


def vector(place: int, off: float = 0.0) -> bytes:
    found = np.zeros(DIMENSIONS, np.float32)
    found[place], found[(place + 1) % DIMENSIONS] = 1 - off, off
    return as_bytes(found / np.linalg.norm(found))


def kept(key: str, place: int = 0, **fields: object) -> Kept:
    usual = Kept(
        key=key.ljust(40, "0"),
        answer=ANSWER,
        epoch="0",
        scope="ann",
        seconds=60,
        fingerprint="f1",
        embedding=vector(place),
        query=f"What is {key}?",
    )
    return replace(usual, **fields)  # type: ignore[arg-type]


@pytest.fixture
async def replicas(stack: Stack) -> AsyncIterator[tuple[CacheStore, CacheStore, str]]:
    """Two stores over one Redis, and the epoch now."""
    url = stack.settings.environment(stack.credentials)["GROUPQWEN_REDIS_URL"]
    connections = connect(url), connect(url)
    one, other = (CacheStore(connection, DIMENSIONS, "of-this-test") for connection in connections)
    await one.clear()
    _, epoch = await get_exact(connections[0], "nothing")
    yield one, other, epoch
    await one.clear()
    for connection in connections:
        await connection.aclose()


Replicas = tuple[CacheStore, CacheStore, str]


async def test_what_one_keeps_the_other_finds_nearest_first(replicas: Replicas) -> None:
    one, other, epoch = replicas
    for key, off in (("a", 0.0), ("b", 0.1), ("c", 0.3)):
        assert await one.put(kept(key, epoch=epoch, embedding=vector(0, off), group="g" if key == "b" else ""))
    near = await other.nearest("f1", vector(0), 2)
    assert [found.entry[0] for found in near] == ["a", "b"]
    assert near[0].distance == pytest.approx(0, abs=1e-6)
    assert [found.group[0] for found in near] == ["a", "g"], "its own group, where no other says the same"
    answers = await other.answers([near[0].entry, "0" * 40])
    assert answers == {near[0].entry: ANSWER}


async def test_nobody_finds_what_has_another_fingerprint_or_scope(replicas: Replicas) -> None:
    one, other, epoch = replicas
    await one.put(kept("a", epoch=epoch))
    await one.put(kept("b", epoch=epoch, fingerprint="f2", scope="bob"))
    assert [found.entry[0] for found in await other.nearest("f1", vector(0), 5)] == ["a"]
    assert [shown.entry[0] for shown in await other.shown("bob")] == ["b"]
    assert await other.of_scope("bob", ["a".ljust(40, "0"), "b".ljust(40, "0")]) == ["b".ljust(40, "0")]
    for hostile in ("*", "ann|bob", "ann} | @scope:{bob", "", "a\\nb"):
        assert await other.shown(hostile or "-") == []


async def test_it_dies_at_its_time_however_often_it_is_read(replicas: Replicas) -> None:
    one, other, epoch = replicas
    await one.put(kept("a", epoch=epoch, seconds=2))
    for _ in range(4):
        assert len(await other.nearest("f1", vector(0), 1)) == 1
        await asyncio.sleep(0.3)
    await asyncio.sleep(1.2)
    assert await other.nearest("f1", vector(0), 1) == []
    assert await other.answers(["a".ljust(40, "0")]) == {}


async def test_what_was_asked_before_something_was_forgotten_is_not_kept_after_it(replicas: Replicas) -> None:
    one, other, epoch = replicas
    assert await one.put(kept("a", epoch=epoch))
    assert await other.forget(["a".ljust(40, "0"), "b".ljust(40, "0")]) == 1
    assert await one.nearest("f1", vector(0), 1) == []
    assert not await one.put(kept("a", epoch=epoch)), "it was under way"
    assert await other.nearest("f1", vector(0), 1) == []


async def test_what_was_learned_is_there_for_the_next_start(replicas: Replicas) -> None:
    one, other, _ = replicas
    before = len(await other.events())
    await one.note([{"kind": "join", "group": "a", "into": "b"}])
    assert (await other.events())[before:] == [{"kind": "join", "group": "a", "into": "b"}]
