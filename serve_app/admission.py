"""What stands between a request and the Router: a place, what its key may still ask and spend, and a row in the
Ledger where no Router writes one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter
from starlette.requests import Request

from configs.catalog import Catalog
from configs.home import home
from configs.profile import Profile
from deployments.budgets.book import Standing
from deployments.budgets.budgets import LOOK_SECONDS, NOTHING, Budgets, Held, used
from deployments.budgets.estimate import most_of
from deployments.budgets.limits import Amount, KeyLimits, Period
from deployments.budgets.shared import SharedBooks
from deployments.cache.exact_store import connect
from deployments.contract import ChatError, ChatRequest, RequestContext, engine_gone, queue_full
from deployments.ledger.journal import Journal
from deployments.ledger.keeping import Keeping, salt_at
from deployments.ledger.opinions import audit_row
from deployments.ledger.record import Progress, QueryRecord
from deployments.metrics import Gauge
from deployments.repeating import repeat
from deployments.router.decision import HITS, Routed
from deployments.timing import within
from serve_app.keys import ApiKey, KeyRing
from serve_app.parts import GONE

logger = logging.getLogger("ray.serve")

FLUSH_SECONDS = 5.0

LEDGER_SECONDS = 1.0
"""What a key has spent is waited for so long."""

STANDING_SECONDS = 15.0
"""How often it is told how keys stand, also while they ask nothing: a budget begins anew, a key is revoked."""


@dataclass
class Admitted:
    """A request that may be asked, as `context` says. `standing`: how its key stands; None: nothing is limited."""

    context: RequestContext
    standing: Standing | None
    progress: Progress
    routed: Routed | None = None

    def see(self, item: object) -> None:
        """Take note of one item of the answer."""
        if isinstance(item, Routed):
            self.routed = item
        self.progress.see(item)


class Admission:
    """Of one Gateway. Belongs to its event loop."""

    def __init__(
        self, profile: Profile, catalog: Catalog, keys: KeyRing, redis_url: str, ledger: DeploymentHandle
    ) -> None:
        self._profile, self._catalog, self._keys, self._ledger = profile, catalog, keys, ledger
        self._keeping = Keeping(profile.ledger.query_text, salt_at(home().salt))
        self._budgets = Budgets(SharedBooks(connect(redis_url)), self._spent_since, self._alert)
        self._active, self.draining, self._idle = 0, False, asyncio.Event()
        self._idle.set()
        self._journal = Journal(home().journal)
        self._refused = Counter("groupqwen_refused", "Requests that were refused, by what.", ("cause",))
        self._used = Gauge("groupqwen_budget_used_ratio", "Share of a budget that is spent.", ("key", "period"))
        self._told: dict[str, frozenset[Period]] = {}
        self._under_way = Gauge("groupqwen_requests_under_way", "Requests in the Gateway now.")

    async def watch(self) -> None:
        """For ever: see `Budgets.look_round`; what the gauges say of budgets; and rows that wait for room on the
        disk are written."""
        await asyncio.gather(
            repeat(self._budgets.look_round, LOOK_SECONDS),
            repeat(self._flush, FLUSH_SECONDS),
            repeat(self._tell_all, STANDING_SECONDS),
        )

    @asynccontextmanager
    async def admit(self, chat: ChatRequest, context: RequestContext) -> AsyncIterator[Admitted]:
        """A place and an allowance for a request. Raises a 429 `ChatError`, and leaves a row of it."""
        admitted = Admitted(context, None, Progress(context.received))
        limits = self._keys.limits(context.key_id)
        most = most_of(chat, context.variants, self._profile, self._catalog)
        asked = False
        try:
            async with self._place(), self._held(context, limits, most) as held:
                asked = True
                if not limits.counts_nothing:
                    admitted.standing = held.standing
                    admitted.context = _within(context, limits, held.standing)
                try:
                    yield admitted
                finally:
                    held.took = self._took(chat, admitted)
        except ChatError as error:
            if not asked:
                self.refused(chat, admitted, error)
            raise

    @asynccontextmanager
    async def count(self, key_id: str, request_id: str, tokens: float) -> AsyncIterator[None]:
        """An allowance for what costs no dollars. Raises a 429 `ChatError`."""
        limits = self._keys.limits(key_id)
        asked = Amount(tokens, 0.0)
        async with self._place(), self._budgets.hold(key_id, request_id, limits, asked) as held:
            yield
            held.took = asked

    @asynccontextmanager
    async def pace(self, key_id: str, request_id: str) -> AsyncIterator[None]:
        """An allowance for what asks no model: only how often a key asks, and how much at once, is limited,
        whatever it has spent. Raises a 429 `ChatError`."""
        limits = self._keys.limits(key_id)
        paced = KeyLimits(requests_per_minute=limits.requests_per_minute, concurrent=limits.concurrent)
        async with self._budgets.hold(key_id, request_id, paced, NOTHING):
            yield

    @asynccontextmanager
    async def follow(self, key_id: str, request_id: str) -> AsyncIterator[None]:
        """The same for a stream of a job's events, of which a key may hold so many. (It is under way for long, and
        takes no place among those that are answered.) Raises a `ChatError`: 429, or 503 where nothing new is taken
        on."""
        if self.draining:
            raise shutting_down()
        most = self._profile.finetuning.streams
        async with AsyncExitStack() as held:
            await held.enter_async_context(self.pace(key_id, request_id))
            limits = KeyLimits(concurrent=most)
            try:
                counted = self._budgets.hold(f"{key_id}:streams", request_id, limits, NOTHING)
                await held.enter_async_context(counted)
            except ChatError as refused:
                raise too_many_streams(most, refused.retry_after) from None
            yield

    def goes_on(self, key: ApiKey) -> bool:
        """Whether a stream of this key's may go on: the key is what it was, and this Gateway stays."""
        now = self._keys.again(key)
        return not self.draining and now is not None and now.scopes == key.scopes

    def refused(self, chat: ChatRequest, admitted: Admitted, error: ChatError) -> None:
        """Write down what no Router has heard of, or what it died of."""
        self._refused.inc(tags={"cause": error.code or str(error.status)})
        try:
            self.append(self._record(chat, admitted, error).as_row())
        except OSError:
            logger.exception("the journal took no row: %s", admitted.context.request_id)

    def append(self, row: dict[str, Any]) -> None:
        """A row for the Ledger. Raises `OSError`."""
        self._journal.append(row)

    async def _flush(self) -> None:
        with suppress(OSError):  # (The disk is still full.)
            self._journal.flush()

    async def standing(self, key_id: str) -> tuple[KeyLimits, Standing]:
        """What a key may ask and spend, and what is left of it."""
        limits = self._keys.limits(key_id)
        return limits, await self._budgets.standing(key_id, limits)

    async def drain(self, *, on: bool, seconds: float) -> int:
        """Take on nothing new from now on (or again), and wait for what is under way; how many have not ended."""
        self.draining = on
        if on:
            with suppress(TimeoutError):
                await within(self._idle.wait(), seconds)
        return self._active

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self.draining:
            raise shutting_down()
        if self._active >= self._profile.limits.concurrent_requests:
            raise queue_full(2.0)
        self._active += 1
        self._idle.clear()
        self._under_way.set(self._active)
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
            self._under_way.set(self._active)

    @asynccontextmanager
    async def _held(self, context: RequestContext, limits: KeyLimits, most: Amount) -> AsyncIterator[Held]:
        async with self._budgets.hold(context.key_id, context.request_id, limits, most) as held:
            self._tell(context.key_id, used(held.standing, limits))
            yield held

    def _tell(self, key_id: str, shares: Mapping[Period, float]) -> None:
        for period in self._told.get(key_id, frozenset()) - shares.keys():
            self._used.forget({"key": key_id, "period": period})
        self._told[key_id] = frozenset(shares)
        for period, share in shares.items():
            self._used.set(share, {"key": key_id, "period": period})

    async def _tell_all(self) -> None:
        for key_id in [key_id for key_id, periods in self._told.items() if periods]:
            limits, standing = await self.standing(key_id)
            self._tell(key_id, used(standing, limits))

    def _took(self, chat: ChatRequest, admitted: Admitted) -> Amount:
        """What it took, as far as it can be seen from here: what variants have said in vain, the Ledger knows."""
        if admitted.routed is None or admitted.routed.cache in HITS:
            return Amount(0.0, 0.0)
        record = self._record(chat, admitted)
        return Amount(record.prompt_tokens + record.completion_tokens, record.cost_usd)

    def _record(self, chat: ChatRequest, admitted: Admitted, error: ChatError | None = None) -> QueryRecord:
        record = QueryRecord.begin(chat, admitted.context, self._keeping)
        if admitted.routed is not None:
            record.route(admitted.routed.decision, admitted.routed.cache, admitted.routed.cache_distance)
        if error is not None:
            record.fail(error.status, error.message)
        record.finish(admitted.progress, self._catalog, self._profile.variants)
        return record

    async def _spent_since(self, key_id: str, since: Mapping[Period, float]) -> Mapping[Period, float]:
        try:
            return cast(
                Mapping[Period, float], await within(self._ledger.spent.remote(key_id, since), LEDGER_SECONDS)
            )
        except RayTaskError as error:
            if isinstance(error.cause, ChatError):
                raise error.cause from None
            raise engine_gone("ledger") from error
        except (*GONE, TimeoutError) as error:
            raise engine_gone("ledger") from error

    def _alert(self, key_id: str, period: Period, name: str, share: float) -> None:
        told = f"budget of the {period} {name}: {share:.0%} used"
        logger.warning("%s: %s", key_id, told)
        # The same from every Gateway, so that it is there once.
        identity = hashlib.sha256(f"{key_id} {period} {name}".encode()).hexdigest()[:24]
        try:
            self.append({**audit_row(key_id, told, 0), "id": identity})
        except OSError:
            logger.exception("the journal took no row of an alert")


_admission: Admission | None = None


def admit_by(admission: Admission) -> None:
    """Set it. One for the process: Serve ships the routes before the Gateway is built."""
    global _admission
    _admission = admission


def admission() -> Admission:
    """For routes that are plain functions."""
    assert _admission is not None
    return _admission


async def paced(request: Request) -> AsyncIterator[None]:
    """A route's dependency: its key's limits hold until the answer is sent. Raises a 429 `ChatError`."""
    async with admission().pace(request.state.key.id, request.state.request_id):
        yield


async def followed(request: Request) -> AsyncIterator[None]:
    """The same of a route that streams a job's events."""
    async with admission().follow(request.state.key.id, request.state.request_id):
        yield


def too_many_streams(most: int, retry_after: float | None) -> ChatError:
    """A 429."""
    return ChatError(
        f"This key may hold {most} streams of events open at once: end one first, or ask for the job's state.",
        status=429,
        kind="rate_limit_error",
        code="too_many_streams",
        retry_after=retry_after,
    )


def shutting_down() -> ChatError:
    """A 503: nothing new is taken on."""
    return ChatError(
        "GroupQwen is being shut down or replaced; what is under way is answered, nothing new is taken on.",
        status=503,
        code="shutting_down",
        retry_after=10.0,
    )


def _within(context: RequestContext, limits: KeyLimits, standing: Standing) -> RequestContext:
    """What the Router should know of a budget. While nobody knows what was spent, nothing is spent elsewhere."""
    share = max(used(standing, limits).values(), default=None)
    return replace(context, budget_used=share, remote=context.remote and not standing.unknown)
