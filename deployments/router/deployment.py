"""The Router as a Serve deployment: cache, classify, decide, pass the answer through, write it down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from openai.types.chat import ChatCompletionChunk
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Histogram

from configs.catalog import Catalog
from configs.home import home
from configs.profile import Profile
from configs.routing import Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.chunks import fold
from deployments.classifier.rules import Classification, classify
from deployments.contract import ChatError, ChatRequest, RequestContext, engine_gone, queue_full
from deployments.ledger.journal import Journal
from deployments.ledger.record import Progress, QueryRecord
from deployments.router.decision import Routed, RouteDecision
from deployments.router.rules import AUTO, Rules, resolve_model
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

STATUS_SECONDS = 2.0
LATENCY_BUCKETS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]

Item = Routed | ChatCompletionChunk


@deployment
class Router:
    """Which variant, and why. Knows nothing of HTTP."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        cache: DeploymentHandle,
        classifier: DeploymentHandle,
        variants: Mapping[str, DeploymentHandle],
    ) -> None:
        self._profile, self._catalog = profile, catalog
        self._rules: Rules
        self._cache = cache
        self._classifier = classifier
        self._status = dict(variants)
        self._streams = {name: handle.options(stream=True) for name, handle in variants.items()}
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

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart."""
        routing = Routing.model_validate(config["routing"])
        self._rules = Rules(self._profile, self._catalog, routing)

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
        # Both at once: the rules need no embedding. A hit does not wait for the classification.
        classifying = self._classifier.classify.remote(request)
        lookup = await self._look_up(request, context)
        self._lookups.inc(tags={"outcome": lookup.outcome})
        if lookup.answer is not None:
            classifying.cancel()
            decision = _from_cache(request, context, lookup)
            record.route(decision, lookup.outcome, lookup.distance)
            routed = Routed(decision, lookup.outcome, lookup.distance)
            yield [routed, *lookup.answer.chunks(context.request_id)]
            return
        decision = self._rules.decide(request, context, await self._classification(classifying, request))
        record.route(decision, lookup.outcome, lookup.distance)
        self._decisions.inc(tags={"variant": decision.variant, "task": decision.task})
        yield [Routed(decision, lookup.outcome, lookup.distance)]
        kept: list[ChatCompletionChunk] | None = [] if lookup.storable else None
        async with aclosing(self._generate(decision.variant, request, context)) as steps:
            async for chunks in steps:
                if kept is not None:
                    kept += chunks
                yield list(chunks)
        if kept:
            self._store(kept, lookup)

    async def _classification(self, response: Any, request: ChatRequest) -> Classification:
        """The Classifier's word, or our own by the same rules where it is away."""
        try:
            found: Classification = await response
            return found
        except (RayActorError, RayTaskError, RayServeException):
            logger.warning("the Classifier did not answer; the rules are applied here")
            return classify(request.messages, self._rules.routing)

    async def _generate(
        self, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """The variant's chunks, its failures in the contract's terms; closing it cancels the variant."""
        stream = self._streams[variant].chat.remote(request, context)
        finished = False
        try:
            async for chunks in stream:
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
            raise engine_gone(variant) from error
        finally:
            if not finished:
                stream.cancel()

    async def _look_up(self, request: ChatRequest, context: RequestContext) -> Lookup:
        """Ask the cache; a cache that is gone is a miss."""
        try:
            found: Lookup = await self._cache.look_up.remote(request, context)
            return found
        except (RayActorError, RayTaskError, RayServeException):
            logger.warning("the cache did not answer; request %s goes on without it", context.request_id)
            return Lookup("miss")

    def _store(self, chunks: list[ChatCompletionChunk], lookup: Lookup) -> None:
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
            await self._cache.store.remote(answer, lookup)
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

    async def models(self) -> list[dict[str, Any]]:
        """What each variant is and does, for `/v1/models`."""
        names = list(self._status)
        live = await asyncio.gather(*(self._status_of(name) for name in names))
        return [self._model(name, status) for name, status in zip(names, live, strict=True)]

    async def _status_of(self, name: str) -> dict[str, Any]:
        try:
            status: dict[str, Any] = await asyncio.wait_for(self._status[name].status.remote(), STATUS_SECONDS)
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
            "roles": [role for role, variant in self._profile.roles.items() if variant == name],
            "declared_memory_mb": spec.memory_mb
            + int(spec.architecture.kv_bytes_per_token() * served.pool_tokens / 2**20),
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
