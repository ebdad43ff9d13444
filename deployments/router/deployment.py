"""The Router as a Serve deployment: cache, classify, decide, pass the answer through, write it down."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from openai.types.chat import ChatCompletionChunk
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Histogram

from configs.catalog import Catalog
from configs.home import home
from configs.placement import application_of
from configs.planner import row_of
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
    engine_gone,
    node_away,
    queue_full,
)
from deployments.ledger.journal import Journal
from deployments.ledger.record import Progress, QueryRecord
from deployments.router.canary import CANARY, Canary, CanaryRules
from deployments.router.decision import Routed, RouteDecision
from deployments.router.nodes import NodeGone, Nodes
from deployments.router.rules import AUTO, Rules, resolve_model
from deployments.serving import deployment, variant_of

logger = logging.getLogger("ray.serve")

STATUS_SECONDS = 2.0
CANARY_SECONDS = 30.0
"""So long a canary may take to its first token; then the old version is asked."""

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
        redis_url: str,
        cache: DeploymentHandle,
        classifier: DeploymentHandle,
        variants: Mapping[str, DeploymentHandle],
    ) -> None:
        self._profile, self._catalog = profile, catalog
        self._rules: Rules
        # Handles to methods are made once: making one costs as much as using it.
        self._find_similar, self._store = cache.find_similar, cache.store
        self._classify = classifier.classify
        on_nodes = {
            name: variant_of(application_of(served.node), name)
            for name, served in profile.variants.items()
            if served.node is not None
        }
        everywhere = {**variants, **on_nodes}
        self._statuses = {name: handle.status for name, handle in everywhere.items()}
        self._chats = {name: handle.options(stream=True).chat for name, handle in everywhere.items()}
        self._nodes = Nodes({name: handle.status.remote for name, handle in on_nodes.items()})
        self._watching = asyncio.get_running_loop().create_task(self._nodes.watch()) if on_nodes else None
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
        self._rules = Rules(self._profile, self._catalog, routing, self._nodes.away)
        tried = config.get("canary")
        self._canary = None if tried is None else Canary(CanaryRules.model_validate(tried))
        self._canaries = (
            {name: variant_of(CANARY, name).options(stream=True).chat for name in self._canary.rules.variants}
            if self._canary
            else {}
        )

    async def canary(self) -> dict[str, Any] | None:
        """How the canary does, or None where there is none."""
        return self._canary.report() if self._canary else None

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
        async with aclosing(self._generate(variant, request, context)) as steps:
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
        states = await asyncio.gather(*(self._status_of(name) for name in self._statuses))
        awake = [name for name, status in zip(self._statuses, states, strict=True) if status["state"] == "awake"]
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

    async def _generate(
        self, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """The variant's chunks, or its canary's, whose failure before the first of them nobody notices."""
        canary = self._canary
        if canary is not None and canary.takes(variant, context.request_id):
            begun, refusal = False, None
            try:
                async with aclosing(self._ask(self._canaries[variant], variant, request, context)) as steps:
                    # A canary that is gone would be waited for as long as the request lasts.
                    chunks = await asyncio.wait_for(anext(steps), CANARY_SECONDS)
                    begun = True
                    yield chunks
                    async for chunks in steps:
                        yield chunks
                canary.ended("answered")
                return
            except (TimeoutError, StopAsyncIteration):
                refusal = engine_gone(variant)
            except ChatError as error:
                if begun:
                    canary.ended("failed")
                    raise
                refusal = error
            # The old version has the last word. What it refuses too is the client's mistake, and a full queue is
            # nobody's; all else is the canary's failure.
            async with aclosing(self._ask(self._chats[variant], variant, request, context)) as steps:
                async for chunks in steps:
                    if refusal is not None and refusal.status != 429:
                        canary.ended("failed")
                        logger.warning("the canary of %s failed: %s", variant, refusal.message)
                    refusal = None
                    yield chunks
            return
        async with aclosing(self._ask(self._chats[variant], variant, request, context)) as steps:
            if variant in self._nodes and not request.stream:
                # Who waits for the whole answer has heard nothing until then: if its machine leaves meanwhile,
                # another variant can give it.
                yield [chunk async for chunks in steps for chunk in chunks]
                return
            async for chunks in steps:
                yield chunks

    async def _ask(
        self, chat: Any, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """The chunks of a handle's `chat`, failures in the contract's terms; closing it cancels the variant."""
        stream = chat.remote(request, context)
        steps: Any = self._nodes.until_gone(variant, stream) if variant in self._nodes else stream
        finished = False
        try:
            async for chunks in steps:
                yield chunks
            finished = True
        except RayTaskError as error:
            finished = True
            if isinstance(error.cause, ChatError):
                raise error.cause from None
            logger.exception("variant %s failed", variant)
            raise engine_gone(variant) from error
        except BackPressureError as error:
            raise queue_full(2.0) from error
        except (RayActorError, RayServeException) as error:
            finished = True
            raise self._gone(variant) from error
        except NodeGone as error:
            raise self._gone(variant) from error
        finally:
            if not finished:
                stream.cancel()

    def _gone(self, variant: str) -> ChatError:
        if variant not in self._nodes:
            return engine_gone(variant)
        # Its other requests need not find out by themselves.
        self._nodes.leaves(variant)
        return node_away(variant, str(self._profile.variants[variant].node))

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
        names = list(self._statuses)
        live = await asyncio.gather(*(self._status_of(name) for name in names))
        return [self._model(name, status) for name, status in zip(names, live, strict=True)]

    async def _status_of(self, name: str) -> dict[str, Any]:
        if name in self._nodes.away:
            return {"state": "away"}
        try:
            status: dict[str, Any] = await asyncio.wait_for(self._statuses[name].remote(), STATUS_SECONDS)
            return status
        except (TimeoutError, RayActorError, RayTaskError, RayServeException):
            return {"state": "unavailable"}

    def _model(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        spec, served = self._catalog.variants[name], self._profile.variants[name]
        return {
            "id": name,
            "object": "model",
            "created": _STARTED,
            "owned_by": "groupqwen",
            "title": spec.title,
            "engine": spec.engine,
            "quantization": spec.quantization,
            "context": served.context,
            "capabilities": sorted(spec.capabilities),
            "node": served.node or "head",
            "roles": [role for role, variant in self._profile.roles.items() if variant == name],
            "declared_memory_mb": row_of(name, spec, served).total_mb,
            "status": status,
        }


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


_STARTED = int(time.time())
