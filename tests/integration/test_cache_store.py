"""The cache's entries in a Redis like the group's, as two replicas see them that know nothing of each other."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from redis.asyncio import Redis

from deployments.cache.answer import CachedAnswer
from deployments.cache.arrival import Arrival
from deployments.cache.entries import Kept
from deployments.cache.event_log import EventLog
from deployments.cache.exact_store import ExactStore, connect
from deployments.cache.experience import Event, veto, vetoed
from deployments.cache.seal import Open, Sealed
from deployments.cache.space import PINNED
from deployments.cache.store import CacheStore, as_bytes
from deployments.router.decision import Given
from groupqwen.stack import redis
from tests.integration.conftest import Stack, wait_for
from tests.waiting import until

ANSWER = CachedAnswer("small", "Paris.", None, 5, 2, 0)
DIMENSIONS = 8


def vector(place: int, off: float = 0.0) -> bytes:
    found = np.zeros(DIMENSIONS, np.float32)
    found[place], found[(place + 1) % DIMENSIONS] = 1 - off, off
    return as_bytes(found / np.linalg.norm(found))


def entry(key: str) -> str:
    return key.ljust(40, "0")


def kept(key: str, place: int = 0, **fields: object) -> Kept:
    usual = Kept(
        key=entry(key),
        answer=ANSWER,
        epoch="0",
        scope="ann",
        seconds=60,
        fingerprint="f1",
        embedding=vector(place),
        query=f"What is {key}?",
    )
    return replace(usual, **fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Replicas:
    """Two stores over one Redis with one key, by which their names are their own; and the epoch now."""

    redis: Redis
    one: CacheStore
    other: CacheStore
    seal: Open
    epoch: str

    async def put(self, key: str, **fields: object) -> bool:
        return await self.one.put(kept(key, epoch=self.epoch, **fields))

    @property
    def log(self) -> EventLog:
        return EventLog(self.redis, self.one.name)

    def another(self, embedder: str) -> CacheStore:
        return CacheStore(self.redis, DIMENSIONS, embedder, self.seal)

    async def raw(self, seal: str | None = None) -> dict[bytes, bytes]:
        """All that Redis holds of them, or of another seal: names, and what `DUMP` says of each."""
        found = {}
        async for name in self.redis.scan_iter(f"*{seal or self.seal.name}*", count=1000):
            found[name] = await self.redis.dump(name) or b""
        return found


@pytest.fixture(scope="module")
def own_redis(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The group's Redis once more, beside it: what is sealed by another key, the group deletes from its own."""
    binary = redis.find(stack.settings.home)
    assert binary is not None
    socket = tmp_path_factory.mktemp("redis") / "redis.sock"
    modules = [part for module in binary.modules for part in ("--loadmodule", str(module))]
    command = [str(binary.server), "--port", "0", "--unixsocket", str(socket), "--save", "", *modules]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=socket.parent)
    wait_for(socket.exists, 60, "Redis did not start")
    yield f"unix://{socket}"
    process.terminate()
    process.wait(10)


@pytest.fixture
async def replicas(own_redis: str) -> AsyncIterator[Replicas]:
    connections = connect(own_redis), connect(own_redis)
    seal = Sealed(secrets.token_bytes(32))
    one, other = (CacheStore(connection, DIMENSIONS, "of-this-test", seal) for connection in connections)
    _, epoch = await one.get("nothing")
    yield Replicas(connections[0], one, other, seal, epoch)
    await one.remove()
    for connection in connections:
        await connection.aclose()


async def test_what_one_keeps_the_other_finds_nearest_first(replicas: Replicas) -> None:
    for key, off in (("a", 0.0), ("b", 0.1), ("c", 0.3)):
        assert await replicas.put(key, embedding=vector(0, off), group="g" if key == "b" else "")
    near = await replicas.other.nearest("f1", vector(0), 2)
    assert [(found.entry[0], found.query) for found in near] == [("a", "What is a?"), ("b", "What is b?")]
    assert near[0].distance == pytest.approx(0, abs=1e-6)
    assert [found.group[0] for found in near] == ["a", "g"], "its own group, where no other says the same"
    answers = await replicas.other.answers([near[0].entry, "0" * 40])
    assert answers == {near[0].entry: ANSWER}


async def test_nobody_finds_what_has_another_fingerprint_or_scope(replicas: Replicas) -> None:
    await replicas.put("a", tag="handbook@3")
    await replicas.put("b", fingerprint="f2", scope="bob")
    other = replicas.other
    assert [found.entry[0] for found in await other.nearest("f1", vector(0), 5)] == ["a"]
    assert [shown.entry[0] for shown in await other.shown("bob")] == ["b"]
    assert [shown.entry[0] for shown in await other.shown("ann", tag="handbook@3")] == ["a"]
    assert await other.shown("ann", tag="handbook@4") == []
    assert await other.of_scope("bob", [entry("a"), entry("b")]) == [entry("b")]
    for hostile in ("*", "ann|bob", "ann} | @scope:{bob", "", "a\\nb"):
        assert await other.shown(hostile or "-") == []


async def test_of_a_hundred_thousand_pairs_of_askers_none_is_served_from_the_other(replicas: Replicas) -> None:
    """Each keeps the same question, with the same vector; their names resemble each other; each looks for it."""
    askers = [
        f"{begin}{middle}{number}"
        for begin in ("f", "F", "f|", "f*")
        for middle in ("", "}", " ", "-")
        for number in range(20)
    ]
    prints = [replicas.seal.named(asker) for asker in askers]
    for place, (asker, fingerprint) in enumerate(zip(askers, prints, strict=True)):
        await replicas.put(f"{place:04x}", fingerprint=fingerprint, scope=asker)
    assert len(askers) ** 2 > 100_000
    for place, (asker, fingerprint) in enumerate(zip(askers, prints, strict=True)):
        near = await replicas.other.nearest(fingerprint, vector(0), 20)
        assert [found.entry for found in near] == [entry(f"{place:04x}")]
        assert [shown.entry for shown in await replicas.other.shown(asker, count=20)] == [entry(f"{place:04x}")]


async def test_it_dies_at_its_time_however_often_it_is_read(replicas: Replicas) -> None:
    await replicas.put("a", seconds=4)
    began = time.monotonic()
    for _ in range(4):
        assert len(await replicas.other.nearest("f1", vector(0), 1)) == 1
        await replicas.other.used(entry("a"), ANSWER)
        await asyncio.sleep(0.3)
    await asyncio.sleep(began + 4.2 - time.monotonic())
    for store in (replicas.one, replicas.other):
        assert await store.nearest("f1", vector(0), 1) == []
        assert await store.answers([entry("a")]) == {}
        assert (await store.get(entry("a")))[0] is None


async def test_what_was_asked_before_something_was_forgotten_is_not_kept_after_it(replicas: Replicas) -> None:
    one, other = replicas.one, replicas.other
    assert await replicas.put("a")
    assert await other.forget([entry("a"), entry("b")]) == 1
    assert await one.nearest("f1", vector(0), 1) == []
    assert (await one.get(entry("a")))[0] is None
    assert not await replicas.put("a"), "it was under way"
    assert await other.nearest("f1", vector(0), 1) == []


async def test_what_was_learned_is_there_for_the_other_replica_and_the_next_start(replicas: Replicas) -> None:
    joined: Event = {"kind": "join", "group": "a", "into": "b"}
    await replicas.log.note([joined, veto("e1", vector(0))], "me")
    heard = await replicas.log.events()
    assert [(by, event["kind"]) for _, by, event in heard] == [("me", "join"), ("me", "veto")]
    assert await replicas.log.events(heard[0][0]) == heard[1:]
    assert await replicas.log.events(heard[1][0]) == []


async def test_redis_holds_no_word_of_question_answer_or_key(replicas: Replicas) -> None:
    secret = CachedAnswer("small", "The password is swordfish.", "hm, swordfish", 5, 2, 0)
    await replicas.put("a", query="What is the vault's password?", answer=secret)
    raw = await replicas.raw()
    assert len(raw) >= 5
    together = b"".join([*raw, *raw.values()])
    for word in (b"swordfish", b"vault", b"password"):
        assert word not in together
    near = await replicas.other.nearest("f1", vector(0), 1)
    assert near[0].query == "What is the vault's password?"
    assert (await replicas.other.get(entry("a")))[0] == secret


async def test_a_poisoned_entry_is_a_miss(replicas: Replicas) -> None:
    await replicas.put("a")
    await replicas.put("b", place=3, answer=replace(ANSWER, content="Rome."))
    exact = [name async for name in replicas.redis.scan_iter(f"gq:exact:{replicas.seal.name}:*")]
    first = next(name for name in exact if name.decode().endswith(entry("a")))
    second = next(name for name in exact if name != first)
    for poison in (await replicas.redis.get(second), b"", b"{}", b"not sealed at all", b"\xff" * 50):
        assert poison is not None
        await replicas.redis.set(first, poison)
        assert (await replicas.one.get(entry("a")))[0] is None, "another's answer, or none of ours"
    in_index = [name async for name in replicas.redis.scan_iter(f"{replicas.one.name}:entry:*")]
    mine = next(name for name in in_index if name.decode().endswith(entry("a")))
    its = next(name for name in in_index if name != mine)
    for field in ("query", "answer"):
        await replicas.redis.hset(mine, field, await replicas.redis.hget(its, field) or b"")
    assert await replicas.one.nearest("f1", vector(0), 1) == []
    assert await replicas.one.answers([entry("a")]) == {}


@pytest.mark.parametrize(("field", "value"), [("fingerprint", "f2"), ("scope", "bob"), ("tag", "handbook@3")])
async def test_whoever_changes_whom_an_entry_may_serve_makes_it_unreadable(
    replicas: Replicas, field: str, value: str
) -> None:
    await replicas.put("a")
    [name] = [name async for name in replicas.redis.scan_iter(f"{replicas.one.name}:entry:*")]
    await replicas.redis.hset(name, field, value)
    assert await replicas.one.nearest("f2", vector(0), 1) == []
    assert await replicas.one.nearest("f1", vector(0), 1) == []
    assert await replicas.one.shown("bob") == []
    assert await replicas.one.answers([entry("a")]) == {}


async def test_without_a_key_what_is_no_answer_is_a_miss_too(replicas: Replicas) -> None:
    store = ExactStore(replicas.redis, Open())
    name = f"gq:exact:open:{replicas.seal.name}"
    for poison in ("", "null", "[]", '{"content": "x"}', '{"variant": 1, "evil": 2}', "\xff"):
        await replicas.redis.set(name, poison, ex=10)
        assert (await store.get(replicas.seal.name))[0] is None


async def test_with_another_key_nothing_is_found_and_what_nobody_can_read_goes(replicas: Replicas) -> None:
    await replicas.put("a")
    stranger = CacheStore(replicas.redis, DIMENSIONS, "of-this-test", Sealed(secrets.token_bytes(32)))
    assert await stranger.nearest("f1", vector(0), 1) == []
    assert (await stranger.get(entry("a")))[0] is None
    await Arrival(replicas.redis, replicas.one).discard_strangers()
    assert await replicas.raw(stranger.names.seal) == {}
    assert await replicas.other.nearest("f1", vector(0), 1) != []
    await Arrival(replicas.redis, stranger).discard_strangers()
    assert await replicas.raw() == {}


async def test_beyond_its_size_what_is_worth_least_goes_first(replicas: Replicas) -> None:
    cheap, dear = replace(ANSWER, seconds=0.1), replace(ANSWER, seconds=30.0)
    for number in range(20):
        await replicas.put(f"c{number:02}", answer=cheap)
    await replicas.put("d", answer=dear)
    await replicas.put("p", answer=cheap, seconds=PINNED)
    # One of the cheap ones is used much.
    for _ in range(5):
        await replicas.other.used(entry("c00"), cheap)
    room = await replicas.one.room()
    assert room.entries == 22
    assert await replicas.one.trim(room.size) == 0
    each = room.size // 22
    assert await replicas.other.trim(4 * each) == 18
    left = {found.entry for found in await replicas.one.nearest("f1", vector(0), 30)}
    assert {entry("d"), entry("p"), entry("c00")} <= left and len(left) == 4
    assert await replicas.one.trim(0) == 3
    assert {found.entry for found in await replicas.one.nearest("f1", vector(0), 30)} == {entry("p")}
    # What has not been used for long loses against what comes now.
    await replicas.put("n", answer=cheap)
    await replicas.put("m", answer=cheap)
    assert await replicas.one.trim((await replicas.one.room()).size - 1) == 1


async def test_the_books_say_what_is_there(replicas: Replicas) -> None:
    one = replicas.one
    await replicas.put("a", seconds=3)
    await replicas.put("a", seconds=3)
    once = await one.room()
    assert once.entries == 1
    await replicas.put("b")
    assert (await one.room()).size == 2 * once.size
    await until(lambda: replicas.other.count_out())
    assert await one.room() == once
    assert await one.forget([entry("b")]) == 1
    assert (await one.room()).size == 0


async def test_a_pinned_entry_stays(replicas: Replicas) -> None:
    await replicas.put("a", seconds=3)
    assert await replicas.other.pin([entry("a"), entry("b")]) == 1
    await asyncio.sleep(3.3)
    assert (await replicas.one.get(entry("a")))[0] == ANSWER
    [shown] = await replicas.one.shown("ann")
    assert shown.expires_at is None
    assert await replicas.one.trim(0) == 0
    assert not await replicas.put("a", answer=replace(ANSWER, content="Rome.")), "nor is it replaced"
    assert (await replicas.one.get(entry("a")))[0] == ANSWER
    assert (await replicas.one.room()).pinned == 1
    assert await replicas.one.pinned(entry("a")) and not await replicas.one.pinned(entry("b"))
    assert await replicas.other.forget([entry("a")]) == 1
    assert (await replicas.one.room()).pinned == 0


async def test_one_that_was_stale_is_fresh_once_it_is_pinned(replicas: Replicas) -> None:
    await replicas.put("a", answer=replace(ANSWER, fresh_until=1.0))
    assert await replicas.one.pin([entry("a")]) == 1
    answer, _ = await replicas.one.get(entry("a"))
    assert answer is not None and not answer.stale
    assert [near.entry for near in await replicas.one.nearest("f1", vector(0), 1)] == [entry("a")]


async def test_all_that_rests_on_some_knowledge_is_known_also_what_no_similar_question_finds(
    replicas: Replicas,
) -> None:
    await replicas.put("a", tag="handbook@3")
    await replicas.put("b", tag="handbook@3", fingerprint=None, embedding=None)
    await replicas.put("c", tag="handbook@4")
    await replicas.put("d", tag="handbook@3", scope="bob")
    assert sorted(await replicas.other.resting_on("ann", "handbook@3")) == [entry("a"), entry("b")]


async def test_what_a_request_was_given_is_taken_back_once_by_who_asked(replicas: Replicas) -> None:
    given = Given("ann", entry("a"), vector(0))
    await replicas.one.gave("r1", given)
    assert await replicas.other.take_given("r1", "bob") is None
    assert await replicas.other.take_given("r1", "ann") == given
    assert await replicas.one.take_given("r1", "ann") is None


async def test_another_embedder_finds_what_was_kept_by_the_one_before(replicas: Replicas) -> None:
    for key in ("a", "b", "c"):
        await replicas.put(key, tag="handbook@3")
    await replicas.log.note([veto(entry("b"), vector(0))], "me")
    new = replicas.another("of-tomorrow")
    try:
        assert await new.nearest("f1", vector(5), 5) == [], "vectors of two embedders are never compared"

        async def embed(query: str) -> bytes:
            return vector(5 if query == "What is a?" else 6)

        await replicas.log.note([{"kind": "join"}], "me")
        await replicas.redis.xadd(f"{replicas.one.name}:events", {"event": "nonsense"})
        await replicas.put("e")
        gone = await replicas.redis.hgetall(f"{replicas.one.name}:entry:{entry('e')}")
        await replicas.one.forget([entry("e")])
        await replicas.redis.hset(f"{replicas.one.name}:entry:{entry('e')}", mapping=gone)  # type: ignore[arg-type]
        arrival = Arrival(replicas.redis, new)
        assert await arrival.move_here(embed, vetoed) == 2, "not what was refused, nor what was forgotten"
        near = await new.nearest("f1", vector(5), 5)
        assert [found.entry[0] for found in near] == ["a", "c"]
        assert near[0].distance == pytest.approx(0, abs=1e-6)
        [first, _] = sorted(await new.shown("ann"), key=lambda found: found.entry)
        assert (first.tag, first.query, first.answer) == ("handbook@3", "What is a?", ANSWER)
        assert first.expires_at is not None
        assert await replicas.redis.ttl(f"{new.name}:entry:{first.entry}") > 0
        assert await arrival.move_here(embed, vetoed) == 0
    finally:
        await new.remove()


async def test_everything_can_be_taken_out_and_put_in_again(replicas: Replicas) -> None:
    await replicas.put("a", tag="t", group="g")
    await replicas.put("b", fingerprint=None, embedding=None, seconds=PINNED)
    found = {kept.key: kept async for kept in replicas.one.everything()}
    assert set(found) == {entry("a"), entry("b")}
    assert (found[entry("a")].query, found[entry("a")].tag, found[entry("a")].group) == ("What is a?", "t", "g")
    assert 0 < found[entry("a")].seconds <= 60
    assert found[entry("b")].seconds == PINNED
    await replicas.one.forget(list(found))
    assert [kept async for kept in replicas.one.everything()] == []
    _, epoch = await replicas.one.get("nothing")
    for kept in found.values():
        assert await replicas.other.put(replace(kept, epoch=epoch, embedding=vector(0)))
    assert {kept.key: kept.answer async for kept in replicas.one.everything()} == dict.fromkeys(found, ANSWER)
    assert [near.entry for near in await replicas.one.nearest("f1", vector(0), 5)] == [entry("a")]
