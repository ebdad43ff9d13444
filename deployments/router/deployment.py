"""The Router as a Serve deployment: cache, classify, decide, pass the answer through, write it down."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from openai.types.chat import ChatCompletionChunk
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Histogram

from configs.catalog import Catalog
from configs.home import home
from configs.profile import Profile
from configs.routing import Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.exact import ExactCache
from deployments.cache.store import connect
from deployments.chunks import fold
from deployments.classifier.rules import Classification, classify
from deployments.contract import (
    AWAY,
    NOT_READY,
    ChatError,
    ChatRequest,
    RequestContext,
)
from deployments.ledger.journal import Journal
from deployments.ledger.record import Progress, QueryRecord
from deployments.router.canary import CanaryRules
from deployments.router.decision import Routed, RouteDecision
from deployments.router.rules import AUTO, Rules, resolve_model
from deployments.router.variants import Variants
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

LATENCY_BUCKETS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]

INSTEAD = {NOT_READY: "was not ready in time", AWAY: "is on a machine that has left"}
"""Failures after which another variant is asked, and what the decision says of them."""

Item = Routed | ChatCompletionChunk


@dataclass(frozen=True)
class _Started:
    """A variant that was asked: its first chunks (they come when it accepts the request), and the rest."""

    first: asyncio.Future[list[ChatCompletionChunk]]
    steps: AsyncGenerator[list[ChatCompletionChunk], None]


@deployment
class Router:
    """Which variant, and why. Knows nothing of HTTP."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        variants: dict[str, DeploymentHandle],
        redis_url: str,
        cache: DeploymentHandle,
        classifier: DeploymentHandle,
    ) -> None:
        self._profile, self._catalog = profile, catalog
        self._rules: Rules
        # Handles to methods are made once: making one costs as much as using it.
        self._find_similar, self._store = cache.find_similar, cache.store
        self._classify = classifier.classify
        self._variants = Variants(profile, catalog, variants)
        self._exact = ExactCache(connect(redis_url))
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._tokens_saved = 0
        self._journal = Journal(home().journal)
        self._pending: set[asyncio.Task[None]] = set()
        self._decisions = Counter(
            "groupqwen_route_decisions", "Decisions by variant and task.", ("variant", "task")
        )
        self._lookups = Counter("groupqwen_cache_lookups", "Cache outcomes by kind.", ("outcome",))
        self._ttft = Histogram("groupqwen_ttft_seconds", "Time to first token.", LATENCY_BUCKETS, ("variant",))
        self._latency = Histogram(
            "groupqwen_latency_seconds", "Time of the whole answer.", LATENCY_BUCKETS, ("variant",)
        )

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart. (Handles want an event loop.)"""
        routing = Routing.model_validate(config["routing"])
        self._rules = Rules(self._profile, self._catalog, routing, self._variants.away)
        tried = config.get("canary")
        self._variants.try_out(None if tried is None else CanaryRules.model_validate(tried))

    async def route(self, request: ChatRequest, context: RequestContext) -> RouteDecision:
        """The decision alone. Raises `ChatError`."""
        return self._rules.decide(request, context, await self._classification(request))

    async def canary(self) -> dict[str, Any] | None:
        """How the canary does, or None where there is none."""
        canary = self._variants.canary
        return canary.report() if canary else None

    async def chat(self, request: ChatRequest, context: RequestContext) -> AsyncIterator[list[Item]]:
        """Route one request: first a `Routed`, then the answer's chunks, in lists of what is there at once.
        Raises `ChatError`.

        Every request that gets here leaves a row in the Ledger, however it ends.
        """
        resolve_model(request.model, self._profile, self._rules.routing)
        record = QueryRecord.begin(request, context)
        progress = Progress(context.received)
        try:
            # Inner generators are closed with the outer, not when they are collected: a client that left must
            # free its slot at once.
            async with aclosing(self._answer(request, context, record)) as answer:
                async for items in answer:
                    for item in items:
                        progress.see(item)
                    yield items
        except ChatError as error:
            record.fail(error.status, error.message)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            record.fail(499, "the client went away")
            raise
        except Exception as error:
            record.fail(500, repr(error))
            raise
        finally:
            self._write_down(record, progress)

    async def _answer(
        self, request: ChatRequest, context: RequestContext, record: QueryRecord
    ) -> AsyncGenerator[list[Item], None]:
        lookup = await self._exact.look_up(request, context, self._rules.routing.cache)
        if lookup.answer is None:
            found = await self._classification(request)
            decision = self._rules.decide(request, context, found)
            async with AsyncExitStack() as opened:
                # The variant starts while the cache looks for a similar question: a miss waits for the longer of
                # the two, not for their sum, and a hit wastes a few milliseconds of the variant's time.
                started = await opened.enter_async_context(self._started(decision.variant, request, context))
                lookup = await self._similar(lookup)
                if lookup.answer is None:
                    record.route(decision, lookup.outcome, lookup.distance)
                    try:
                        kept = await started.first
                    except ChatError as error:
                        decision = await self._instead(decision, request, found, error)
                        # What another variant said is not kept as the answer of the one that was asked for.
                        lookup = replace(lookup, exact_key=None)
                        record.route(decision, lookup.outcome, lookup.distance)
                        started = await opened.enter_async_context(
                            self._started(decision.variant, request, context)
                        )
                        kept = await started.first
                    self._seen(lookup)
                    self._decisions.inc(tags={"variant": decision.variant, "task": decision.task or ""})
                    yield [Routed(decision, lookup.outcome, lookup.distance), *kept]
                    async for chunks in started.steps:
                        if lookup.storable:
                            kept += chunks
                        yield list(chunks)
                    if lookup.storable:
                        self._keep(kept, lookup)
                    return
        decision = _from_cache(request, context, lookup)
        self._seen(lookup)
        record.route(decision, lookup.outcome, lookup.distance)
        assert lookup.answer is not None
        yield [
            Routed(decision, lookup.outcome, lookup.distance),
            *lookup.answer.chunks(context.request_id),
        ]

    def _seen(self, lookup: Lookup) -> None:
        self._lookups.inc(tags={"outcome": lookup.outcome})
        self._outcomes[lookup.outcome] += 1
        if lookup.answer is not None:
            self._tokens_saved += lookup.answer.completion_tokens

    @asynccontextmanager
    async def _started(
        self, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncIterator[_Started]:
        """Ask a variant, and stop it when this is left."""
        async with aclosing(self._variants.generate(variant, request, context)) as steps:
            first = asyncio.ensure_future(anext(steps))
            try:
                await asyncio.sleep(0)  # The variant's request goes out before anything else that is asked now.
                yield _Started(first, steps)
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)

    async def _instead(
        self, decision: RouteDecision, request: ChatRequest, found: Classification, error: ChatError
    ) -> RouteDecision:
        """What replaces a decision whose variant was not ready in time. Raises `error` where nothing does."""
        if error.code not in INSTEAD:
            raise error
        statuses = await self._variants.statuses()
        awake = [name for name, status in statuses.items() if status["state"] == "awake"]
        instead = self._rules.fall_back(decision, request, found, awake, INSTEAD[error.code])
        if instead is None:
            raise error
        return instead

    async def _classification(self, request: ChatRequest) -> Classification:
        """The Classifier's word where the decision hangs on it; our own by the same rules where a variant was
        named, or where the Classifier is away."""
        if resolve_model(request.model, self._profile, self._rules.routing).kind != "variant":
            try:
                found: Classification = await self._classify.remote(request)
                return found
            except (RayActorError, RayTaskError, RayServeException):
                logger.warning("the Classifier did not answer; the rules are applied here")
        return classify(request.messages, self._rules.routing)

    async def _similar(self, lookup: Lookup) -> Lookup:
        """The second half of a lookup, for requests that a similar question's answer may serve. A cache that is
        gone is a miss."""
        if not lookup.similar_may_serve:
            return lookup
        try:
            found: Lookup = await self._find_similar.remote(lookup)
            return found
        except (RayActorError, RayTaskError, RayServeException):
            logger.warning("the cache did not answer; the request goes on without it")
            return lookup

    def _keep(self, chunks: list[ChatCompletionChunk], lookup: Lookup) -> None:
        answer = fold(chunks)
        if any(choice.finish_reason != "stop" for choice in answer.choices):
            return
        if not any(choice.message.content for choice in answer.choices):
            return
        task = asyncio.get_running_loop().create_task(self._store_now(CachedAnswer.of(answer), lookup))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _store_now(self, answer: CachedAnswer, lookup: Lookup) -> None:
        try:
            await self._store.remote(answer, lookup)
        except (RayActorError, RayTaskError, RayServeException):
            logger.warning("the cache did not take an answer")

    def _write_down(self, record: QueryRecord, progress: Progress) -> None:
        record.finish(progress, self._catalog)
        try:
            self._journal.append(record.as_row())
        except OSError:
            # The answer counts for more than its row; what can be said of it goes to the log.
            logger.exception("the journal took no row: %s", record.request_id)
        if record.variant:
            tags = {"variant": record.variant}
            if record.ttft_ms is not None:
                self._ttft.observe(record.ttft_ms / 1e3, tags)
            self._latency.observe(record.latency_ms / 1e3, tags)

    async def cache_outcomes(self) -> dict[str, Any]:
        """How lookups have ended since the start, and what the hits among them have saved."""
        asked = sum(self._outcomes[kind] for kind in ("exact", "semantic", "miss"))
        hits = self._outcomes["exact"] + self._outcomes["semantic"]
        return {
            "outcomes": {kind: self._outcomes[kind] for kind in ("exact", "semantic", "miss", "bypass")},
            "hit_rate": hits / asked if asked else None,
            "completion_tokens_saved": self._tokens_saved,
        }

    async def models(self) -> list[dict[str, Any]]:
        """What each variant is and does, for `/v1/models`."""
        return await self._variants.models()


def _from_cache(request: ChatRequest, context: RequestContext, lookup: Lookup) -> RouteDecision:
    """The decision that a hit spares: the variant is the one that gave the kept answer."""
    assert lookup.answer is not None
    distance = "" if lookup.distance is None else f" at cosine distance {lookup.distance:.3f}"
    return RouteDecision(
        variant=lookup.answer.variant,
        reason=f"{lookup.outcome} cache hit{distance}",
        requested=request.model or AUTO,
        device=context.device,
    )
