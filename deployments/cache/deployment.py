"""The SemanticCache as a Serve deployment: similar questions, what is kept, and what was learned of it. It also
holds the group's one embedder. (The Router makes the exact lookup itself, see `exact`.)"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from configs.home import home
from configs.routing import CacheRules, Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.arrival import Arrival
from deployments.cache.calibrated import likeness_at
from deployments.cache.canonical import scope_of
from deployments.cache.comparing import say_the_same
from deployments.cache.entries import Kept, Shown
from deployments.cache.event_log import EventLog
from deployments.cache.exact_store import connect
from deployments.cache.experience import ALL, Experience, Verdict, check, join, saw, veto, vetoed
from deployments.cache.learning import Learning
from deployments.cache.metrics import CacheMetrics
from deployments.cache.patience import FAILURES, Patience
from deployments.cache.seal import seal_named
from deployments.cache.second_opinion import SecondOpinion
from deployments.cache.store import CacheStore, as_bytes
from deployments.contract import invalid, or_gone
from deployments.embedding.embedder import Embedder, fingerprint_of
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

JITTER = 0.1
"""Of an entry's life, so that what was asked together is not asked anew together."""

COMPARED = 3
"""Of the neighbours' answers, so many of different groups are compared with a fresh one."""

HEAR_SECONDS = 1.0
"""So often it hears what other replicas have learned."""

UPKEEP_EVERY = 60
"""Of these times, it also takes off the books what has expired."""

ARRIVES_AFTER = 120
"""Of these times, what was kept before is taken over, or deleted where nobody can read it: by then the replicas of
before have ended, or have stayed because the rollout has failed."""


@deployment
class SemanticCache:
    """Finds similar questions and keeps answers. Whatever goes wrong is a miss."""

    def __init__(
        self,
        redis_url: str,
        model: str,
        tokenizer: str,
        max_tokens: int,
        variants: dict[str, DeploymentHandle],
        sealed: str,
    ) -> None:
        """`variants`: who may be asked for an opinion, the smallest first. `sealed`: the name of the seal."""
        self._embedder = Embedder(Path(model), Path(tokenizer), max_tokens=max_tokens)
        self._embedder_is = fingerprint_of(Path(model))
        seal = seal_named(home().cache_key, sealed)
        redis = connect(redis_url)
        self._store = CacheStore(redis, self._embedder.dimensions, self._embedder_is, seal)
        self._arrival = Arrival(redis, self._store)
        self._rules: CacheRules
        self._experience = Experience(CacheRules())
        self._patience = Patience()
        self._learning = Learning(self._experience, EventLog(redis, self._store.name), self._patience)
        chats = {name: handle.options(stream=True).chat.remote for name, handle in variants.items()}
        self._second = SecondOpinion(chats)
        self._metrics = CacheMetrics()
        self._embedded = 0
        self._draw = random.Random()  # noqa: S311  # It spreads lives; nobody gains by guessing it.
        self._upkeep: asyncio.Task[None] | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`, and what `groupqwen cache calibrate` has found: at the start, and anew without
        a restart."""
        self._rules = Routing.model_validate(config["routing"]).cache
        self._experience.take(self._rules, likeness_at(home().cache_likeness, self._embedder_is))
        if self._upkeep is None:
            await self._learning.hear()
            self._upkeep = asyncio.get_running_loop().create_task(self._keep_up())

    async def _keep_up(self) -> None:
        """For ever: what others learn, what has expired, what was here before."""
        turns = 0
        while True:
            await asyncio.sleep(HEAR_SECONDS)
            turns += 1
            try:
                await self._learning.keep_up()
                self._metrics.show(self._experience, self._rules.wrong_per_request)
                if turns % UPKEEP_EVERY == 1:
                    await self._store.count_out()
                    await self._store.trim(self._rules.max_cache_size_mb << 20)
                    self._metrics.room(await self._store.room())
                if turns == ARRIVES_AFTER:
                    await self._arrive()
            except FAILURES as error:
                self._patience.failed(error)
            except Exception:  # Whatever it is: without this, nothing is heard and nothing goes any more.
                logger.exception("the cache's upkeep failed")

    async def _arrive(self) -> None:
        await self._arrival.discard_strangers()
        moved = await self._arrival.move_here(self._embedded_later, vetoed)
        if moved:
            logger.warning("%d entries of another embedder were embedded anew", moved)

    async def find_similar(self, missed: Lookup) -> Lookup:
        """Has a similar question been answered? Takes an exact lookup's miss that asks for this. Never raises;
        waits for Redis no longer than the budget, nor for a verifier than its own (`within`)."""
        query = missed.query
        assert missed.fingerprint is not None and query is not None
        embedding = self._embed_query(query)
        near = await self._patience.ask(
            partial(self._store.nearest, missed.fingerprint, embedding, self._rules.candidates),
            self._rules.budget_ms,
        )
        missed = replace(missed, embedding=embedding, similar_may_serve=False)
        if near is None:
            return missed
        # (Asked afresh, its own answer of before is no neighbour.)
        near = [one for one in near if one.entry != missed.exact_key]
        verdict = self._experience.decide(query, near, np.frombuffer(embedding, "<f4"), missed.partition)
        by = None if missed.turn else self._experience.verifier_in_force
        verified = by is not None and await self._verified(query, verdict)
        if verified and self._experience.serves_verified(missed.partition):
            verdict = replace(verdict, serves=verdict.near[0], why=f"{verdict.why}, verified")
        if not missed.only_checks:
            self._learning.learn(saw(missed.partition, verdict.features, by, verified))
        served, answers = verdict.serves, {}
        if served is not None and not missed.only_checks:
            answers = (
                await self._patience.ask(partial(self._store.answers, [served.entry]), self._rules.budget_ms) or {}
            )
        found = replace(
            missed,
            distance=served.distance if served else near[0].distance if near else None,
            near=verdict.near,
            features=verdict.features,
            why=verdict.why,
            verified_by=by if verified else None,
        )
        if served is None or served.entry not in answers:
            return found
        return replace(found, outcome="semantic", answer=answers[served.entry], exact_key=served.entry)

    async def _verified(self, query: str, verdict: Verdict) -> bool:
        """Whether a verifier was asked about a doubtful neighbour, and says that its answer would do."""
        verifier = self._second.named(self._rules.verifier)
        if verifier is None or not verdict.doubtful:
            return False
        seconds = self._rules.verify_ms / 1e3
        likely = await self._second.one_answer_for_both(verifier, query, verdict.near[0].query, seconds)
        return likely is not None and likely >= self._rules.verified

    async def store(self, answer: CachedAnswer, missed: Lookup) -> None:
        """Keep the answer that a miss led to, and learn what it says of the neighbours."""
        if missed.exact_key is None:
            return
        embedding = missed.embedding
        if embedding is None and missed.fingerprint is not None and missed.query is not None:
            embedding = self._embed_query(missed.query)
        try:
            group = await self._compared(answer, missed)
            life = self._rules.lives.get(missed.kind, self._rules.ttl_seconds) if missed.kind else None
            life = self._rules.ttl_seconds if life is None else life
            if not life:
                return
            fresh = max(1, round(life * self._draw.uniform(1 - JITTER, 1 + JITTER)))
            stale = self._rules.stale.get(missed.kind, 0) if missed.kind else 0
            kept = Kept(
                key=missed.exact_key,
                answer=replace(answer, fresh_until=time.time() + fresh if stale else None),
                epoch=missed.epoch,
                scope=missed.scope,
                seconds=fresh + stale,
                fingerprint=missed.fingerprint,
                embedding=embedding,
                query=missed.query or "",
                group=group or f"{missed.exact_key}:{answer.created}",
                tag=missed.tag,
            )
            await self._store.put(kept)
            await self._store.trim(self._rules.max_cache_size_mb << 20)
        except FAILURES as error:
            self._patience.failed(error)

    async def _compared(self, answer: CachedAnswer, missed: Lookup) -> str | None:
        """Compare a fresh answer with its neighbours'; the group that says the same, if one does."""
        if missed.features is None or not missed.near:
            return None
        first_of = {self._experience.group(one.group): one for one in reversed(missed.near)}
        asked = sorted(first_of.items(), key=lambda found: found[1].distance)[:COMPARED]
        answers = await self._store.answers([one.entry for _, one in asked])
        same: list[str] = []
        for group, one in asked:
            if one.entry not in answers:
                continue
            nearest = one.entry == missed.near[0].entry
            agreed = await self._say_the_same(answer, answers[one.entry], missed, judged=nearest)
            if nearest:
                self._learning.learn(check(missed.partition, missed.features, group, agreed, missed.verified_by))
                if missed.only_checks and not agreed and missed.embedding is not None:
                    await self.refuse(one.entry, missed.embedding)
            same += [group] if agreed else []
        for other in same[1:]:
            self._learning.learn(join(other, same[0]))
        return same[0] if same else None

    async def _say_the_same(self, one: CachedAnswer, other: CachedAnswer, missed: Lookup, *, judged: bool) -> bool:
        """By words and numbers; else by the judge, in checks, which are made when nothing else is to do; else by
        their embeddings."""
        judge = self._second.named(self._rules.judge) if judged and missed.only_checks else None

        async def asked() -> bool | None:
            if judge is None:
                return None
            return await self._second.say_the_same(judge, missed.query or "", one.content, other.content)

        return await say_the_same(one.content, other.content, self._vectors, asked)

    async def doubted(self, missed: Lookup) -> None:
        """The fresh answer was not one to rely on: whether the neighbour's would have done is not known, and
        counts as wrong."""
        if missed.features is not None and missed.near:
            group = self._experience.group(missed.near[0].group)
            self._learning.learn(check(missed.partition, missed.features, group, False, missed.verified_by))

    async def refuse(self, entry: str, embedding: bytes) -> None:
        """This entry was a false hit for a question with this embedding: it does not serve such a one again."""
        self._learning.learn(veto(entry, embedding))
        if self._experience.vetoes(entry) >= self._rules.most_vetoes:
            await self.drop(entry)

    async def drop(self, entry: str) -> None:
        """Someone found this bad: it goes, unless it is pinned. Raises `ChatError` where Redis is away."""
        with or_gone("cache", FAILURES):
            if not await self._store.pinned(entry):
                await self._store.forget([entry])

    async def forget_entries(self, entries: list[str]) -> int:
        """Delete these; how many there were. Raises `ChatError` where Redis is away."""
        with or_gone("cache", FAILURES):
            return await self._store.forget(entries)

    async def pin(self, entries: list[str]) -> int:
        """Keep these until they are forgotten; how many there were. Raises `ChatError` where that would be more
        than the owner lets be pinned, or Redis is away."""
        with or_gone("cache", FAILURES):
            if (await self._store.room()).pinned + len(entries) > self._rules.max_pinned:
                raise invalid(f"No more than {self._rules.max_pinned} entries may be pinned.", param="ids")
            return await self._store.pin(entries)

    async def resting_on(self, key_id: str, group: str | None, knowledge: str) -> list[str]:
        """Every entry that may serve this key and rests on this, those for exactly one request too. Raises
        `ChatError` where Redis is away."""
        with or_gone("cache", FAILURES):
            return await self._store.resting_on(scope_of(self._rules, key_id, group), knowledge)

    async def owned(self, key_id: str, group: str | None, entries: list[str]) -> list[str]:
        """Those of these entries that may serve this key. Raises `ChatError` where Redis is away."""
        with or_gone("cache", FAILURES):
            return await self._store.of_scope(scope_of(self._rules, key_id, group), entries)

    async def entries(
        self,
        key_id: str,
        group: str | None,
        *,
        query: str | None = None,
        most_distance: float | None = None,
        variant: str | None = None,
        knowledge: str | None = None,
        count: int,
    ) -> list[dict[str, Any]]:
        """What is kept that may serve this key: the nearest to a query, or any. Raises `ChatError` where Redis is
        away."""
        embedding = self._embed_query(query) if query else None
        scope = scope_of(self._rules, key_id, group)
        with or_gone("cache", FAILURES):
            found = await self._store.shown(
                scope, embedding=embedding, variant=variant, tag=knowledge, count=count
            )
        return [
            _as_row(one)
            for one in found
            if most_distance is None or one.distance is None or one.distance <= most_distance
        ]

    async def _vectors(self, texts: list[str]) -> list[list[float]]:
        vectors, _ = await self.embed(texts)
        return vectors

    async def embed_query(self, query: str) -> bytes:
        """A question's embedding (float32, little-endian), for a decision that no lookup comes before."""
        return self._embed_query(query)

    def _embed_query(self, query: str) -> bytes:
        self._embedded += 1
        return as_bytes(self._embedder.embed([query])[0])

    async def _embedded_later(self, query: str) -> bytes:
        """In a thread: lookups come first."""
        return as_bytes((await asyncio.to_thread(self._embedder.embed, [query]))[0])

    async def embed(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """Embeddings for `/v1/embeddings`, and the tokens read; in a thread, so that lookups go on."""
        vectors = await asyncio.to_thread(self._embedder.embed, texts)
        tokens = await asyncio.to_thread(self._embedder.count_tokens, texts)
        return vectors.tolist(), tokens

    async def stats(self, key_id: str, group: str | None) -> dict[str, Any]:
        """Entries now, the rules in force, and what is promised: of all, and by kind in this key's scope."""
        own = f"{scope_of(self._rules, key_id, group)}:"
        room = None
        try:
            room = await self._store.room()
        except FAILURES as error:
            self._patience.failed(error)
        return {
            "entries": None if room is None else room.entries,
            "size_mb": None if room is None else round(room.size / 2**20, 3),
            "max_size_mb": self._rules.max_cache_size_mb,
            "embedded": self._embedded,
            "mode": self._rules.mode,
            "distance_threshold": self._rules.distance,
            "wrong_per_request": self._rules.wrong_per_request,
            "ttl_seconds": self._rules.ttl_seconds,
            "partitions": {
                name.removeprefix(own): {"checks": checks, **asdict(one)}
                for name, (checks, one) in self._experience.report().items()
                if name == ALL or name.startswith(own)
            },
            "verifier": {name.removeprefix(own): known for name, known in self._experience.verifier(own).items()},
        }

    async def clear(self) -> int:
        """Delete every entry. Raises `ChatError` where Redis is away."""
        with or_gone("cache", FAILURES):
            return await self._store.clear()

    async def health(self) -> dict[str, Any]:
        """Whether Redis answers."""
        try:
            await self._store.ping()
            error = None
        except FAILURES as failure:
            error = self._patience.last_error.note(failure)
        return {"ok": error is None, "error": error, "last_error": self._patience.last_error.report()}


def _as_row(one: Shown) -> dict[str, Any]:
    expires = None if one.expires_at is None else max(0, round(one.expires_at - time.time()))
    return {
        "id": one.entry,
        "query": one.query,
        "answer": one.answer.content,
        "variant": one.variant,
        "group": one.group,
        "knowledge": one.tag or None,
        "distance": one.distance,
        "age_seconds": max(0, round(time.time() - one.answer.created)),
        "expires_in_seconds": expires,
        "pinned": expires is None,
    }
