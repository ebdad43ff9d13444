"""What keys may ask and spend: on a real Redis, on one that dies, and through the whole stack."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import RateLimitError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from configs.home import Home
from deployments.budgets import budgets as budgets_module
from deployments.budgets.book import Book, Standing
from deployments.budgets.budgets import Budgets
from deployments.budgets.limits import Amount, KeyLimits, Period
from deployments.budgets.shared import SharedBooks
from deployments.cache.exact_store import connect
from deployments.contract import ChatError, engine_gone
from groupqwen.stack import redis as redis_of
from groupqwen.stack.deploy import http
from tests.integration.conftest import SMALL, Stack, wait_for

KEY = "key_0123456789ab"
NOW = 1_795_000_000.0


class OwnRedis:
    """A Redis of a test's own, which it may kill."""

    def __init__(self, folder: Path, home: Home) -> None:
        binary = redis_of.find(home)
        assert binary is not None
        self._command = [str(binary.server), "--port", "0", "--unixsocket", str(folder / "s"), "--save", ""]
        self._socket, self._process = folder / "s", None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        self._process: Any = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, cwd=self._socket.parent)
        wait_for(lambda: self._answers(), 60, "Redis did not start")

    def _answers(self) -> bool:
        try:
            return bool(Redis.from_url(self.url).ping())
        except Exception:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def own_redis(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    found = OwnRedis(tmp_path_factory.mktemp("redis"), stack.settings.home)
    yield found
    found.kill()


@pytest.fixture
async def shared(own_redis: OwnRedis) -> AsyncIterator[SharedBooks]:
    client = connect(own_redis.url)
    await client.flushall()
    yield SharedBooks(client)
    await client.aclose()


async def test_redis_keeps_the_same_books_as_are_kept_by_hand(shared: SharedBooks) -> None:
    chance = random.Random(7)
    for limits in (
        KeyLimits(requests_per_minute=5, tokens_per_minute=400),
        KeyLimits(concurrent=3, usd_per_day=6, usd_per_week=9, usd_per_month=20),
        KeyLimits(requests_per_minute=30, tokens_per_minute=2000, concurrent=4, usd_per_month=12),
    ):
        key, book, now, under_way = f"key_{chance.random()}", Book(), NOW, list[str]()
        for number in range(150):
            now += chance.choice([0.0, 0.3, 4.0, 45.0, -20.0, 40_000.0 if number % 30 == 29 else 1.0])
            what, most = chance.random(), Amount(chance.randrange(200), chance.random() * 2)
            if number == 20:
                told: Mapping[Period, float] = {"day": 1.0, "week": 2.0, "month": 3.0}
                book.known(told, now)
                await shared.known(key, told, now)
            elif what < 0.55 or not under_way:
                by_hand = book.reserve(str(number), most, limits, now)
                by_redis = await shared.reserve(key, str(number), most, limits, now)
                assert by_redis.refused == by_hand.refused, number
                assert by_redis.unknown == by_hand.unknown, number
                assert by_redis.retry_after == pytest.approx(by_hand.retry_after, abs=1e-3)
                assert by_redis.requests_left == pytest.approx(by_hand.requests_left, abs=1e-3)
                assert by_redis.tokens_left == pytest.approx(by_hand.tokens_left, abs=1e-3)
                assert by_redis.spent == pytest.approx(dict(by_hand.spent))
                if by_hand.refused is None:
                    under_way.append(str(number))
            elif what < 0.7:
                held = dict.fromkeys(under_way, most)
                book.renew(held, now)
                await shared.renew(key, held, now)
            else:
                ended = under_way.pop(chance.randrange(len(under_way)))
                book.settle(ended, most, limits, now)
                await shared.settle(key, ended, most, limits, now)
        read = await shared.read(key)
        assert read.standing(limits, now).spent == pytest.approx(dict(book.standing(limits, now).spent))


class Counted:
    """`Budgets` beside what a Ledger would say; `away`: it says nothing."""

    def __init__(self, shared: SharedBooks) -> None:
        self.ledger: dict[Period, float] | None = {"day": 0.0, "week": 0.0, "month": 0.0}
        self.alerts: list[tuple[str, Period, str, float]] = []
        self.budgets = Budgets(shared, self._since, lambda *told: self.alerts.append(told))

    async def _since(self, key_id: str, since: Mapping[Period, float]) -> Mapping[Period, float]:
        if self.ledger is None:
            raise engine_gone("ledger")
        return dict(self.ledger)

    async def ask(
        self,
        limits: KeyLimits,
        took: float,
        most: float,
        name: str,
        *,
        fails: bool = False,
        until: asyncio.Event | None = None,
    ) -> str:
        """One request, which lasts a moment, or `until` then; how it ended."""
        try:
            async with self.budgets.hold(KEY, name, limits, Amount(10, most)) as held:
                await (until.wait() if until else asyncio.sleep(0.01))
                if fails:
                    raise RuntimeError
                held.took = Amount(10, took)
            return "answered"
        except ChatError as error:
            assert error.status == 429 and error.retry_after is not None
            return str(error.code)
        except RuntimeError:
            return "failed"

    async def settled(self) -> None:
        while self.budgets._pending:
            await asyncio.gather(*self.budgets._pending)


@pytest.mark.parametrize("away", [False, True])
async def test_fifty_at_once_overshoot_a_budget_by_one_reservation_at_most(
    own_redis: OwnRedis, shared: SharedBooks, away: bool
) -> None:
    counted = Counted(SharedBooks(connect("unix:///nowhere")) if away else shared)
    limits = KeyLimits(usd_per_day=10)
    counted.ledger = {"day": 9.5, "week": 9.5, "month": 9.5}
    # On the busiest machine too, all have asked before the first one is done.
    all_have_asked = asyncio.Event()
    asking = [
        asyncio.ensure_future(counted.ask(limits, 1.0, 1.0, str(n), until=all_have_asked)) for n in range(50)
    ]
    refused = [await end for end in itertools.islice(asyncio.as_completed(asking, timeout=60), 49)]
    all_have_asked.set()
    assert refused == 49 * ["budget_held"]
    assert (await asyncio.gather(*asking)).count("answered") == 1
    await counted.settled()
    assert await counted.ask(limits, 1.0, 1.0, "more") == "insufficient_quota"
    assert counted.alerts and counted.alerts[0][:2] == (KEY, "day") and counted.alerts[0][3] > 1
    assert len(counted.alerts) == 1, "told once"


class LateBooks(SharedBooks):
    """Redis lets in who is named `late`, and says so when it may; it does not answer others in time."""

    def __init__(self, redis: AsyncRedis) -> None:
        super().__init__(redis)
        self.asked, self.may_say = asyncio.Event(), asyncio.Event()

    async def reserve(self, key_id: str, request_id: str, *asked: Any, **how: Any) -> Standing:
        if request_id != "late":
            raise TimeoutError
        standing = await super().reserve(key_id, request_id, *asked, **how)
        if not standing.unknown:
            self.asked.set()
            await self.may_say.wait()
        return standing


async def test_a_redis_that_answers_some_in_time_lets_in_no_more_than_one(
    own_redis: OwnRedis, shared: SharedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets_module, "ANSWER_SECONDS", 30)
    monkeypatch.setattr(budgets_module, "AWAY_SECONDS", 0.0)
    books = LateBooks(connect(own_redis.url))
    counted, limits, over = Counted(books), KeyLimits(usd_per_day=10), asyncio.Event()
    counted.ledger = {"day": 9.5, "week": 9.5, "month": 9.5}
    late = asyncio.ensure_future(counted.ask(limits, 1.0, 1.0, "late"))
    await books.asked.wait()
    alone = asyncio.ensure_future(counted.ask(limits, 1.0, 1.0, "alone", until=over))
    for _ in range(50):
        await asyncio.sleep(0)
    assert counted.budgets._under_way[KEY].keys() == {"alone"}
    assert await counted.ask(limits, 1.0, 1.0, "third") == "budget_held"
    books.may_say.set()
    assert await late == "budget_held"
    over.set()
    assert await alone == "answered"
    await counted.settled()
    assert (await shared.read(KEY)).leases.keys() == {"late"}, "until Redis is told"
    assert await counted.ask(limits, 1.0, 1.0, "late") == "insufficient_quota"
    assert (await shared.read(KEY)).leases == {}


@pytest.mark.parametrize("away", [False, True])
async def test_who_fails_or_leaves_gives_the_reservation_back(
    own_redis: OwnRedis, shared: SharedBooks, away: bool
) -> None:
    counted = Counted(SharedBooks(connect("unix:///nowhere")) if away else shared)
    limits = KeyLimits(usd_per_day=2, concurrent=2)
    for turn in range(5):
        failing = [counted.ask(limits, 1.0, 1.0, f"{turn}-{n}", fails=True) for n in range(2)]
        leaving = [asyncio.ensure_future(counted.ask(limits, 1.0, 1.0, f"l{turn}-{n}")) for n in range(20)]
        await asyncio.sleep(0.001 * turn)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.gather(*failing)
        await counted.settled()
    standing = await counted.budgets.standing(KEY, limits)
    assert standing.spent.get("day", 0.0) == 0.0
    assert counted.budgets._under_way == {}
    assert [await counted.ask(limits, 1.0, 1.0, n) for n in "ab"] == ["answered", "answered"]
    await counted.settled()
    assert await counted.ask(limits, 1.0, 1.0, "c") == "insufficient_quota"


async def test_a_redis_that_dies_and_comes_back_empty_forgets_nothing(
    own_redis: OwnRedis, shared: SharedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets_module, "AWAY_SECONDS", 0.05)
    counted, limits = Counted(shared), KeyLimits(usd_per_day=10, requests_per_minute=100, concurrent=3)
    assert await counted.ask(limits, 4.0, 4.0, "a") == "answered"
    await counted.settled()
    own_redis.kill()
    counted.ledger = None
    assert await counted.ask(limits, 4.0, 4.0, "b") == "answered"
    await counted.settled()
    own_redis.start()
    await asyncio.sleep(0.1)
    counted.ledger = {"day": 4.0, "week": 4.0, "month": 4.0}
    assert await counted.ask(limits, 4.0, 4.0, "c") == "answered", "8 of 10 are spent"
    await counted.settled()
    assert await counted.ask(limits, 0.0, 0.0, "d") == "insufficient_quota", "12 are, whatever Redis knew"
    spent = await counted.budgets.standing(KEY, limits)
    assert spent.spent["day"] == pytest.approx(12.0)
    other = Counted(shared)
    assert await other.ask(limits, 0.0, 0.0, "e") == "insufficient_quota", "and another Gateway knows it"


async def test_what_nobody_knows_is_told_and_the_ledger_puts_it_right(shared: SharedBooks) -> None:
    counted, limits = Counted(shared), KeyLimits(usd_per_day=10)
    counted.ledger = None
    async with counted.budgets.hold(KEY, "a", limits, Amount(1, 1.0)) as held:
        assert held.standing.unknown == ("day",)
    counted.ledger = {"day": 20.0, "week": 20.0, "month": 20.0}
    assert await counted.ask(limits, 1.0, 1.0, "b") == "insufficient_quota"
    free = KeyLimits(usd_per_day=100)
    assert await counted.ask(free, 1.0, 1.0, "c") == "answered"
    await counted.settled()
    counted.ledger = {"day": 50.0, "week": 50.0, "month": 50.0}
    await counted.budgets.reckon(KEY)
    assert (await counted.budgets.standing(KEY, free)).spent["day"] == pytest.approx(50.0)


async def test_what_is_held_long_is_renewed_and_what_a_dead_gateway_held_is_free(shared: SharedBooks) -> None:
    limits = KeyLimits(concurrent=1)
    clock = [NOW]
    counted = Counted(shared)
    counted.budgets._clock = lambda: clock[0]
    async with counted.budgets.hold(KEY, "long", limits, Amount(1, 1.0)):
        for _ in range(10):
            clock[0] += 15
            await counted.budgets.renew(KEY)
            assert await counted.ask(limits, 0.0, 0.0, "other") == "concurrency_limit_exceeded"
    await counted.settled()
    assert (await shared.reserve(KEY, "of the dead", Amount(1, 1.0), limits, clock[0])).refused is None
    assert await counted.ask(limits, 0.0, 0.0, "other") == "concurrency_limit_exceeded"
    clock[0] += 60
    assert await counted.ask(limits, 0.0, 0.0, "other") == "answered"


# -- through the stack ------------------------------------------------------------------------------------


@pytest.fixture
def make(stack: Stack) -> Iterator[Any]:
    """Makes keys, which are gone afterwards; each counts when it is given."""
    made: list[str] = []

    def new(**fields: Any) -> dict[str, Any]:
        key: dict[str, Any] = stack.post("/keys", {"name": "of a test", **fields}).json()
        made.append(key["id"])
        headers = {"authorization": f"Bearer {key['secret']}"}
        wait_for(lambda: http().get(stack.url + "/models", headers=headers).status_code == 200, 20, "no key")
        return key

    yield new
    for key_id in made:
        http().delete(f"{stack.url}/keys/{key_id}", headers=stack.headers)


def ask(stack: Stack, key: dict[str, Any], **fields: Any) -> httpx.Response:
    body = {"model": SMALL, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 2, **fields}
    headers = {"authorization": f"Bearer {key['secret']}", "cache-control": "no-store"}
    return httpx.post(stack.url + "/chat/completions", json=body, headers=headers, timeout=120)


def test_a_key_asks_as_often_as_it_may_and_is_told_when_to_ask_again(stack: Stack, make: Any) -> None:
    key = make(limits={"requests_per_minute": 3})
    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(lambda _: ask(stack, key), range(12)))
    answered = [one for one in told if one.status_code == 200]
    assert len(answered) == 3
    assert sorted(int(one.headers["x-ratelimit-remaining-requests"]) for one in answered) == [0, 1, 2]
    refused = next(one for one in told if one.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 21
    client = stack.client(api_key=key["secret"])
    with pytest.raises(RateLimitError, match="requests a minute"):
        client.chat.completions.create(model=SMALL, messages=[{"role": "user", "content": "hi"}], stream=True)
    with pytest.raises(RateLimitError):
        client.embeddings.create(model="all-minilm-l6-v2", input="hi")
    streamed = stack.client(api_key=make(limits={"tokens_per_minute": 500})["secret"])
    with streamed.chat.completions.with_streaming_response.create(
        model=SMALL, messages=[{"role": "user", "content": "hi"}], max_tokens=2, stream=True
    ) as response:
        assert 400 < int(response.headers["x-ratelimit-remaining-tokens"]) < 500
        list(response.iter_lines())


def test_a_budget_that_is_used_up_refuses_and_every_refusal_has_a_row(stack: Stack, make: Any) -> None:
    key = make(limits={"usd_per_day": 1e-9})
    assert ask(stack, key).status_code == 200, "there was something left"
    refused = ask(stack, key)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "insufficient_quota"
    request_id = refused.headers["x-request-id"]
    wait_for(lambda: stack.get(f"/requests/{request_id}").status_code == 200, 60, "no row of a refusal")
    row = stack.get(f"/requests/{request_id}").json()
    assert (row["status"], row["key_id"], row["cost_usd"]) == (429, key["id"], 0.0)
    wait_for(
        lambda: any(
            one["key_id"] == key["id"] and "budget of the day" in one["act"]
            for one in stack.get("/audit").json()["acts"]
        ),
        20,
        "nobody was told",
    )
    shown = httpx.get(stack.url + "/budget", headers={"authorization": f"Bearer {key['secret']}"}).json()
    assert shown["budgets"][0]["spent_usd"] > shown["budgets"][0]["usd"] == 1e-9
    assert shown["budgets"][0]["ends"] > time.time()
    assert stack.get(f"/budget?key={key['id']}").json() == shown
    changed = http().patch(
        f"{stack.url}/keys/{key['id']}", json={"limits": {"usd_per_day": 1}}, headers=stack.headers
    )
    assert changed.json()["limits"]["usd_per_day"] == 1
    wait_for(lambda: ask(stack, key).status_code == 200, 20, "a larger budget does not count")


def test_places_are_counted_and_a_client_that_leaves_frees_its_own(stack: Stack, make: Any) -> None:
    key = make(limits={"concurrent": 1})
    client = stack.client(api_key=key["secret"])
    for _ in range(3):
        stream = client.chat.completions.create(
            model=SMALL,
            messages=[{"role": "user", "content": "Count to a thousand."}],
            stream=True,
            max_tokens=400,
            extra_headers={"cache-control": "no-store"},
        )
        next(iter(stream))
        assert ask(stack, key).json()["error"]["code"] == "concurrency_limit_exceeded"
        stream.close()
        wait_for(lambda: ask(stack, key).status_code == 200, 10, "the place is still taken")


def test_what_is_kept_of_a_question_is_as_the_key_says(stack: Stack, make: Any) -> None:
    def query(**fields: Any) -> str:
        told = ask(stack, make(**fields), messages=[{"role": "user", "content": "My secret word?"}])
        request_id = told.headers["x-request-id"]
        wait_for(lambda: stack.get(f"/requests/{request_id}").status_code == 200, 60, "no row")
        return str(stack.get(f"/requests/{request_id}").json()["query"])

    assert query() == "My secret word?"
    assert query(query_text="none") == ""
    hashed = query(query_text="hash")
    assert hashed.startswith("hmac:") and hashed == query(query_text="hash")


def test_limits_that_are_not_said_stay_as_they_are(stack: Stack, make: Any) -> None:
    key = make(limits={"requests_per_minute": 100, "usd_per_day": 1})
    changed = (
        http()
        .patch(f"{stack.url}/keys/{key['id']}", json={"limits": {"usd_per_day": 5}}, headers=stack.headers)
        .json()
    )
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["usd_per_day"]) == (100, 5)
    owner = next(one["id"] for one in stack.get("/keys").json()["keys"] if one["name"] == "owner")
    refused = http().patch(f"{stack.url}/keys/{owner}", json={"scopes": ["chat"]}, headers=stack.headers)
    assert refused.status_code == 400


def test_several_prompts_take_no_more_places_than_the_key_has(stack: Stack, make: Any) -> None:
    key = make(limits={"concurrent": 2})
    body = {"model": SMALL, "prompt": [f"The number {n} is" for n in range(5)], "max_tokens": 2}
    headers = {"authorization": f"Bearer {key['secret']}"}
    told = httpx.post(stack.url + "/completions", json=body, headers=headers, timeout=120)
    assert told.status_code == 200, told.text
    assert len(told.json()["choices"]) == 5


def test_who_is_left_when_the_first_goes_pays_for_the_answer(stack: Stack, make: Any) -> None:
    key = make()
    headers = {"authorization": f"Bearer {key['secret']}"}
    text = f"Tell a story about the town of {key['id']}."
    body = {"model": SMALL, "messages": [{"role": "user", "content": text}], "max_tokens": 60, "stream": True}

    def ask_it() -> Any:
        return http().stream("POST", stack.url + "/chat/completions", json=body, headers=headers, timeout=120)

    with ask_it() as first, ask_it() as second:
        lines = first.iter_lines()
        next(lines)
        assert second.headers["x-groupqwen-cache"] == "coalesced"
        first.close()
        assert "data: [DONE]" in list(second.iter_lines())
        request_id = second.headers["x-request-id"]
    wait_for(lambda: stack.get(f"/requests/{request_id}").status_code == 200, 60, "no row")
    row = stack.get(f"/requests/{request_id}").json()
    assert row["cost_usd"] > 0 and row["cache"] != "coalesced", "somebody pays"


def test_the_owner_sets_limits_by_command(stack: Stack, make: Any) -> None:
    key = make()
    set_so = stack.run_cli("keys", "limits", key["id"], "--requests-per-minute", "1", "--usd-per-day", "2.5")
    assert set_so.returncode == 0 and "2.5" in set_so.stdout
    wait_for(lambda: ask(stack, key).status_code == 429, 40, "the limit does not count")
    assert stack.run_cli("keys", "privacy", key["id"], "hash").returncode == 0
    assert stack.run_cli("keys", "privacy", key["id"], "all").returncode == 2
    assert stack.run_cli("keys", "limits", key["id"], "--none").returncode == 0
    wait_for(lambda: ask(stack, key).status_code == 200, 40, "there is still a limit")
    kept = next(one for one in stack.get("/keys").json()["keys"] if one["id"] == key["id"])
    assert kept["query_text"] == "hash" and kept["limits"]["requests_per_minute"] is None
