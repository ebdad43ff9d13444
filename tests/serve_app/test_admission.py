"""What holds on routes that ask no model. Redis is away here: the books are kept by hand (with Redis:
tests/integration/test_finetuning.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.profile import load_profile
from deployments.budgets.limits import KeyLimits
from deployments.contract import ChatError
from serve_app.admission import Admission
from serve_app.keys import ApiKey, KeyRing, change_key, create_key, revoke_key
from tests.waiting import until

NOWHERE = "redis://127.0.0.1:1"
STREAMS = 2


class Asks:
    """As a Gateway does for one key."""

    def __init__(self, keys: Path, key: ApiKey) -> None:
        catalog = load_catalog()
        profile = load_profile("cpu", catalog)
        rules = profile.finetuning.model_copy(update={"streams": STREAMS})
        profile = profile.model_copy(update={"finetuning": rules})
        ledger: Any = None
        self.admission = Admission(profile, catalog, KeyRing(keys), NOWHERE, ledger)
        self.key, self._count = key, 0

    async def code(self, held: AsyncExitStack | None = None, *, stream: bool = False) -> str | None:
        """Of a refusal; None: it was answered. `held`: what keeps it under way."""
        self._count += 1
        how = self.admission.follow if stream else self.admission.pace
        async with AsyncExitStack() as at_once:
            try:
                await (held or at_once).enter_async_context(how(self.key.id, f"request {self._count}"))
            except ChatError as refused:
                assert refused.status in (429, 503) and refused.retry_after
                return refused.code
        return None

    async def answered(self, *, stream: bool = False) -> bool:
        return await self.code(stream=stream) is None


Run = Callable[[KeyLimits, Callable[[Asks], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path))
    path = tmp_path / "keys.json"

    def go(limits: KeyLimits, what: Callable[[Asks], Coroutine[Any, Any, None]]) -> None:
        create_key(path, "the owner")
        key, _ = create_key(path, "of a test", scopes=("finetune",), limits=limits)

        async def within_a_loop() -> None:
            await what(Asks(path, key))

        asyncio.run(within_a_loop())

    return go


def test_a_key_asks_as_often_as_it_may(run: Run) -> None:
    async def thrice(asks: Asks) -> None:
        assert [await asks.code() for _ in range(3)] == [None, None, "rate_limit_exceeded"]
        assert await asks.code(stream=True) == "rate_limit_exceeded"

    run(KeyLimits(requests_per_minute=2), thrice)


def test_an_open_stream_is_under_way(run: Run) -> None:
    async def beside(asks: Asks) -> None:
        async with AsyncExitStack() as held:
            assert await asks.code(held, stream=True) is None
            assert await asks.code() == await asks.code(stream=True) == "concurrency_limit_exceeded"
        await until(lambda: asks.answered())  # Who has left holds nothing.

    run(KeyLimits(concurrent=1), beside)


def test_streams_are_counted_also_of_a_key_without_limits(run: Run) -> None:
    async def many(asks: Asks) -> None:
        async with AsyncExitStack() as held:
            told = [await asks.code(held, stream=True) for _ in range(STREAMS + 1)]
            assert told == [*[None] * STREAMS, "too_many_streams"]
            assert await asks.code() is None, "what is no stream goes on"
        await until(lambda: asks.answered(stream=True))

    run(KeyLimits(), many)


def test_what_was_spent_keeps_nobody_from_their_jobs(run: Run) -> None:
    async def broke(asks: Asks) -> None:
        assert await asks.code() is None

    run(KeyLimits(usd_per_day=0.0, tokens_per_minute=1, requests_per_minute=9), broke)


def test_streams_end_with_their_key_and_their_gateway(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.keys.CHECK_SECONDS", 0.0)
    path = tmp_path / "keys.json"

    async def ends(asks: Asks) -> None:
        assert asks.admission.goes_on(asks.key)
        change_key(path, asks.key.id, name="another")
        assert asks.admission.goes_on(asks.key)
        change_key(path, asks.key.id, scopes=("chat",))
        assert not asks.admission.goes_on(asks.key), "what it may no more it does no more"
        change_key(path, asks.key.id, scopes=asks.key.scopes)
        assert asks.admission.goes_on(asks.key)
        assert revoke_key(path, asks.key.id)
        assert not asks.admission.goes_on(asks.key)
        await asks.admission.drain(on=True, seconds=0.01)
        assert await asks.code(stream=True) == "shutting_down"

    run(KeyLimits(), ends)
