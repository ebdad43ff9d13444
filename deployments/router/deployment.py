"""The Router as a Serve deployment: cache, classify, decide, pass the answer through, write it down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from openai.types.chat import ChatCompletionChunk
from ray.serve.handle import DeploymentHandle

from configs.adapters import base_of
from configs.catalog import Catalog
from configs.home import home
from configs.profile import Profile
from configs.routing import Routing
from deployments.adapters.registry import Registry
from deployments.adapters.sides import belongs
from deployments.cache.answer import Lookup
from deployments.cache.exact import ExactCache
from deployments.cache.exact_store import connect
from deployments.cache.seal import seal_named
from deployments.contract import AUTO, Adapter, ChatError, ChatRequest, RequestContext
from deployments.ledger.journal import Journal
from deployments.ledger.keeping import Keeping, salt_at
from deployments.ledger.record import QueryRecord
from deployments.repeating import repeat
from deployments.router.adapters import Adapters, listed, try_out
from deployments.router.afterwards import Afterwards
from deployments.router.answering import Answering, Committed
from deployments.router.asked import Asked
from deployments.router.bandit import Bandit
from deployments.router.breakers import Breakers
from deployments.router.calibration import Calibration, CalibrationError, load_calibration, nothing
from deployments.router.canary import CanaryRules
from deployments.router.clerk import Clerk
from deployments.router.conditions import asks_for_thrift
from deployments.router.conversations import Conversations, Turn
from deployments.router.decision import Given, Item, Routed, RouteDecision
from deployments.router.escalation import Judges
from deployments.router.failures import has_content
from deployments.router.flights import Flights
from deployments.router.given import given_by
from deployments.router.lookups import Lookups
from deployments.router.metrics import RouterMetrics
from deployments.router.pace import Pace
from deployments.router.plans import Asking, committed, ended
from deployments.router.power import Meter, counters_of
from deployments.router.reader import Reader
from deployments.router.rules import Rules, Situation
from deployments.router.shadows import drawn
from deployments.router.shared_flights import SharedFlights
from deployments.router.taking_over import going_on, the_rest
from deployments.router.variants import Variants
from deployments.serving import deployment
from deployments.tracing.attributes import of_request, tell_route
from deployments.tracing.spans import measured, step

logger = logging.getLogger("ray.serve")

TELLING_SECONDS = 5.0


@deployment
class Router:
    """Which variant, and why. Knows nothing of HTTP."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        variants: dict[str, DeploymentHandle],
        redis_url: str,
        sealed: str,
        cache: DeploymentHandle,
        classifier: DeploymentHandle,
    ) -> None:
        """`sealed`: the name of the seal of what Redis holds."""
        seal = seal_named(home().cache_key, sealed)
        self._profile, self._catalog = profile, catalog
        self._rules: Rules
        self._reader = Reader(profile, ExactCache(connect(redis_url), seal), cache, classifier)
        self._variants = Variants(profile, catalog, variants)
        self._adapters = Adapters(Registry(home().adapters, profile.variants), self._reader)
        self._seen_lookups = Lookups()
        self._journal = Journal(home().journal)
        elsewhere = frozenset(name for name in profile.variants if catalog.variants[name].engine == "remote")
        self._meter = Meter(counters_of(profile, elsewhere))
        self._pace, self._breakers, self._conversations = Pace(), Breakers(), Conversations()
        self._bandit = Bandit(0.0)
        self._flights: Flights[list[Item]] = Flights()
        self._shared_flights = SharedFlights(connect(redis_url), seal) if profile.limits.routers > 1 else None
        self._afterwards = Afterwards(self._reader, self._pace, self._journal, catalog, self.chat)
        self._metrics = RouterMetrics()
        keeping = Keeping(profile.ledger.query_text, salt_at(home().salt))
        self._clerk = Clerk(profile, catalog, self._journal, keeping, self._meter, self._metrics)
        self._looking = asyncio.get_running_loop().create_task(repeat(self._look_round, TELLING_SECONDS))

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`, and the calibration: at the start, and anew without a restart. (Handles want
        an event loop.)"""
        routing = Routing.model_validate(config["routing"])
        worth = {name: self._catalog.variants[name].quality.prior for name in self._profile.variants}
        known = calibration_at(home().calibration).only(worth)
        judges = Judges(known, routing.escalation, worth)
        for warning in judges.warnings:
            logger.warning("%s", warning)
        self._reader.reconfigure(routing)
        self._bandit.explore = routing.learning.explore
        situation = Situation(
            self._variants.away,
            self._pace,
            self._variants.loading,
            self._breakers,
            self._bandit,
            self._adapters.promoted,
        )
        self._rules = Rules(self._profile, self._catalog, routing, situation, judges)
        tried = config.get("canary")
        self._variants.try_out(None if tried is None else CanaryRules.model_validate(tried))

    async def route(self, request: ChatRequest, context: RequestContext) -> RouteDecision:
        """The decision alone. Raises `ChatError`."""
        context = await self._adapters.place(request, context, self._rules)
        found = await self._reader.classification(request, await self._reader.embedding(request))
        return self._rules.decide(request, context, found, self._conversations.last(request, context))

    async def feedback(self, request_id: str, key_id: str, good: bool, correction: str | None = None) -> bool:
        """Someone's verdict on an answer; whether it is one that this Router remembers, by who has asked for
        it. What was bad does not come from the cache again."""
        self._clerk.rated(request_id, key_id, good, correction)
        given = None if good else await self._reader.take_given(request_id, key_id)
        if given is not None:
            await self._reader.disown(given)
        return self._bandit.said(request_id, key_id, good) or given is not None

    async def canary(self) -> dict[str, Any] | None:
        """How the canary does, or None where there is none."""
        canary = self._variants.canary
        return canary.report() if canary else None

    async def chat(self, request: ChatRequest, context: RequestContext) -> AsyncIterator[list[Item]]:
        """Route one request: first a `Routed`, then the answer's chunks, in lists of what is there at once.
        Raises `ChatError`.

        Every request that gets here leaves a row in the Ledger, however it ends.
        """
        noted = self._clerk.begin(request, context)
        record = noted.record
        own = step(context, "route")
        thrift = any(asks_for_thrift(rule.when, context) for rule in self._rules.routing.rules)
        context = replace(own.within(context), thrift=thrift)
        try:
            context = await self._adapters.place(request, context, self._rules)
            # Inner generators are closed with the outer, not when they are collected: a client that left must
            # free its slot at once.
            async with aclosing(self._answer(request, context, record)) as answer:
                async for items in answer:
                    noted.see(items)
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
            self._clerk.write_down(noted)
            with own:
                tell_route(own, record, noted.progress)

    async def _answer(
        self, request: ChatRequest, context: RequestContext, record: QueryRecord
    ) -> AsyncGenerator[list[Item], None]:
        lookup = await measured(context, "cache exact", self._reader.look_up(request, context))
        if lookup.same is None or lookup.answer is not None or context.cache != "use":
            steps = self._found(request, context, lookup, record)
            async with aclosing(steps):
                async for items in steps:
                    yield items
            return
        # (The limits that a request sets itself are no part of the answer, but of who may give it.)
        key = (lookup.same, request.stream, context.max_cost_usd, context.remote, context.begin_within)
        flight = self._flights.join(key)
        joined = flight is not None
        if flight is None:
            flight = self._flights.start(key, self._once(key, request, context, lookup, record))
        routed: Routed | None = None
        async with aclosing(flight.listen(pays=not joined)) as heard:  # type: ignore[type-var]
            async for items in heard:
                routed = next((item for item in items if isinstance(item, Routed)), routed)
                yield [self._shared(item, context, record) for item in items] if joined else items
        if joined and routed is not None and flight.takes_over():
            # Who has asked first has left, and paid for what was said until then at most.
            record.route(routed.decision, routed.cache, routed.cache_distance)
            yield [routed]

    def _once(
        self,
        key: tuple[object, ...],
        request: ChatRequest,
        context: RequestContext,
        lookup: Lookup,
        record: QueryRecord,
    ) -> AsyncGenerator[list[Item], None]:
        """The answer, made here, or by another Router that was asked the same."""
        if self._shared_flights is None or lookup.exact_key is None:
            # (Where Redis has just said nothing, nobody waits for it once more.)
            return self._found(request, context, lookup, record)

        def answer(said: list[Item]) -> AsyncGenerator[list[Item], None]:
            if not said:
                return self._found(request, context, lookup, record)
            # (Two have said it: nobody keeps it.)
            return the_rest(said, lambda: self._found(going_on(request, said), context, Lookup("bypass"), record))

        name = "|".join(map(str, key))
        return self._shared_flights.fly(name, answer, lambda item: self._shared(item, context, record))

    def _shared(self, item: Item, context: RequestContext, record: QueryRecord) -> Item:
        """What one who joined hears: the same, as an answer to its own request."""
        if not isinstance(item, Routed):
            return item.model_copy(update={"id": f"chatcmpl-{context.request_id}"})
        self._seen(Lookup("coalesced"))
        if item.given is not None:
            self._gave(context, replace(item.given, key_id=context.key_id))
        record.route(item.decision, "coalesced", item.cache_distance)
        return replace(item, cache="coalesced")

    async def _found(
        self, request: ChatRequest, context: RequestContext, lookup: Lookup, record: QueryRecord
    ) -> AsyncGenerator[list[Item], None]:
        """The answer that the cache has, or a fresh one."""
        if lookup.answer is None:
            async with AsyncExitStack() as opened:
                similar = self._reader.similar(request, lookup)
                looking = asyncio.ensure_future(measured(context, "cache similar", similar))
                opened.callback(looking.cancel)
                await asyncio.sleep(0)  # The cache reads the question while it is classified.
                asking = await self._asking(request, context, lookup.embedding)
                asked = Asked(asking.ask(asking.decision.variant, request))
                opened.push_async_callback(asked.aclose)
                # A variant that was asked in vain reads the prompt all the same, up to a batch of it, and on a
                # processor holds up this hit and the next: it is asked when the cache has nothing, or when the
                # cache takes its time, or at once while the cache finds next to nothing.
                head_start = self._seen_lookups.head_start(self._rules.routing.cache.head_start_ms / 1e3)
                await asyncio.wait({looking}, timeout=head_start)
                if not looking.done():
                    asked.begin()
                searches = lookup.similar_may_serve
                lookup = replace(await looking, kind=asking.found.task)
                if searches:
                    self._seen_lookups.searched(lookup.answer is not None)
                if lookup.answer is None:
                    steps = self._fresh(asking, asked, lookup, record)
                    async for items in await opened.enter_async_context(aclosing(steps)):
                        yield items
                    return
                # Nobody waits until the variant has let go.
                self._afterwards.later(opened.pop_all().aclose())
        assert lookup.answer is not None
        decision = _from_cache(request, context, lookup, self._adapters.arm(lookup.answer.variant, context))
        self._seen(lookup)
        given = given_by(context, lookup)
        self._gave(context, given)
        self._afterwards.served(request, context, lookup, self._rules.routing.cache.checked)
        record.route(decision, lookup.outcome, lookup.distance)
        yield [
            Routed(decision, lookup.outcome, lookup.distance, lookup.answer.created, given),
            *lookup.answer.chunks(context.request_id),
        ]

    async def _asking(self, request: ChatRequest, context: RequestContext, embedding: bytes | None) -> Asking:
        """The decision, and all that an answer may need."""
        found = await measured(context, "classify", self._reader.classification(request, embedding))
        last = self._conversations.last(request, context)
        with step(context, "decide"):
            decision = self._rules.decide(request, context, found, last)
        return Asking(
            rules=self._rules,
            generate=self._generate,
            breakers=self._breakers,
            awake=self._variants.awake,
            request=request,
            context=context,
            found=found,
            decision=decision,
        )

    async def _fresh(
        self, asking: Asking, asked: Asked, lookup: Lookup, record: QueryRecord
    ) -> AsyncGenerator[list[Item], None]:
        """An answer from variants: the decided one's, or of who takes over."""
        decision = asking.decision
        record.route(decision, lookup.outcome, lookup.distance)
        self._seen(lookup)
        answering = Answering(asking.plan())
        kept: list[ChatCompletionChunk] = []
        routed: list[Item] = []
        shadowed = drawn(asking.context.request_id, self._rules.routing.learning.shadow)
        shadows = self._adapters.shadowing(decision.variant, asking.context.request_id)
        try:
            async with aclosing(answering.run(decision.variant, asked.chunks())) as items:
                async for item in items:
                    if isinstance(item, Committed):
                        decision = committed(asking.decision, item, self._catalog)
                        record.route(decision, lookup.outcome, lookup.distance)
                        given = given_by(asking.context, lookup)
                        routed = [Routed(decision, lookup.outcome, lookup.distance, given=given)]
                        continue
                    yield [*routed, *item]
                    routed = []
                    if lookup.storable or shadowed or shadows:
                        kept += item
        finally:
            decision = ended(decision, answering.attempts)
            record.route(decision, lookup.outcome, lookup.distance)
            self._metrics.decided(decision, answering.attempts[:-1])
        self._conversations.answered(
            asking.request, asking.context, Turn(base_of(decision.variant), decision.task)
        )
        self._bandit.answered(
            asking.context.request_id, asking.context.key_id, decision.variant, decision.task or ""
        )
        # What another variant said is not kept as the answer of the one that was asked for, nor what two said, nor
        # what its variant was unsure of.
        sure = answering.attempts[-1].confidence if answering.attempts else None
        confident = sure is None or sure >= self._rules.routing.cache.confident
        may = lookup.storable and answering.one_voice and confident
        # (Nor what an adapter would have answered, if it had been well.)
        may = may and belongs(decision.variant, asking.context.adapters)
        seconds = time.time() - asking.context.received
        if may and self._afterwards.keep(kept, lookup, seconds):
            self._gave(asking.context, given_by(asking.context, lookup))
        elif lookup.features is not None and (lookup.only_checks or not confident):
            self._afterwards.later(self._reader.doubt(lookup))
        if answering.one_voice:
            same = decision.variant == asking.decision.variant
            for other in [*[None] * shadowed, *(shadows if same else [])]:
                self._afterwards.shadow(asking, decision.variant, kept, other)

    def _gave(self, context: RequestContext, given: Given | None) -> None:
        if given is not None:
            self._afterwards.later(self._reader.gave(context.request_id, given))

    def _seen(self, lookup: Lookup) -> None:
        if lookup.only_checks:
            return
        self._metrics.looked_up(lookup.outcome)
        self._seen_lookups.seen(lookup)

    async def _generate(
        self, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """A variant's answer, timed."""
        began, first, tokens = time.monotonic(), 0.0, 0
        self._breakers.asked(variant)
        context = replace(context, adapter=self._adapters.wanted(variant, context))
        with (
            self._pace.asked(variant),
            self._meter.running(base_of(variant), context.request_id),
            step(context, f"ask {variant}", "client") as own,
        ):
            own.set(of_request(request, variant) if own else {})
            try:
                async with aclosing(self._variants.generate(variant, request, own.within(context))) as steps:
                    async for chunks in steps:
                        if not first and any(map(has_content, chunks)):
                            first = time.monotonic() - began
                        tokens = next((chunk.usage.completion_tokens for chunk in chunks if chunk.usage), tokens)
                        yield chunks
            except BaseException:
                self._breakers.let_go(variant)
                raise
        self._breakers.answered(variant)
        if first and tokens:
            self._pace.note(variant, first, time.monotonic() - began, tokens)

    async def cache_outcomes(self) -> dict[str, Any]:
        """How lookups have ended since the start, and what the hits among them have saved."""
        return self._seen_lookups.report()

    async def health(self) -> dict[str, Any]:
        """Whether the Classifier answers, who is left alone since it failed, and how each variant is."""
        statuses, classifier = await asyncio.gather(self._variants.statuses(), self._reader.classifier_health())
        return {
            "ok": not self._journal.waiting,
            "error": f"{self._journal.waiting} rows wait for room on the disk" if self._journal.waiting else None,
            "variants": {name: status["state"] for name, status in statuses.items()},
            "resting": self._breakers.report(),
            "classifier": classifier,
        }

    async def _look_round(self) -> None:
        self._metrics.resting({name: name in self._breakers for name in self._profile.variants})
        with suppress(OSError):  # (The disk is still full.)
            self._journal.flush()

    async def models(self) -> list[dict[str, Any]]:
        """What each variant is and does, and each adapter, for `/v1/models`."""
        promoted = await self._adapters.look()
        models = await self._variants.models()
        return models + listed(models, promoted.values())

    async def try_adapter(self, model: str, digest: str) -> str:
        """What its base answers with an adapter, promoted or not. Raises `ChatError`."""
        wanted = Adapter(model, digest, trial=True)
        return await try_out(self._variants.generate, self._catalog, self._profile.variants, wanted)


def _from_cache(request: ChatRequest, context: RequestContext, lookup: Lookup, arm: str | None) -> RouteDecision:
    """The decision that a hit spares: the variant is the one that gave the kept answer."""
    assert lookup.answer is not None
    distance = "" if lookup.distance is None else f" at cosine distance {lookup.distance:.3f}"
    return RouteDecision(
        variant=lookup.answer.variant,
        reason=f"{lookup.outcome} cache hit{distance}",
        requested=request.model or AUTO,
        device=context.device,
        arm=arm,
    )


def calibration_at(path: Path) -> Calibration:
    """The calibration; an empty one where there is none that can be read."""
    try:
        return load_calibration(path)
    except FileNotFoundError:
        return nothing()
    except (CalibrationError, OSError) as error:
        logger.warning("the calibration is not used: %s", error)
        return nothing()
