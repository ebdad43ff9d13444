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
from redis.exceptions import RedisError

from configs.routing import CacheRules, Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.canonical import EVERYONE
from deployments.cache.experience import Event, Experience, check, join, saw, veto
from deployments.cache.patience import Patience
from deployments.cache.store import CacheStore, Kept, Shown, as_bytes, connect
from deployments.embedding.embedder import Embedder, fingerprint_of
from deployments.router.shadows import agreement
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

SAYS_THE_SAME = 0.8
"""The agreement of two answers from which one may stand for the other; what is in doubt counts as wrong."""

JITTER = 0.1
"""Of an entry's life, so that what was asked together is not asked anew together."""

COMPARED = 3
"""Of the neighbours' answers, so many of different groups are compared with a fresh one."""

FAILURES = (RedisError, OSError, TimeoutError)


@deployment
class SemanticCache:
    """Finds similar questions and keeps answers. Whatever goes wrong is a miss."""

    def __init__(self, redis_url: str, model: str, tokenizer: str, max_tokens: int) -> None:
        self._embedder = Embedder(Path(model), Path(tokenizer), max_tokens=max_tokens)
        self._store = CacheStore(connect(redis_url), self._embedder.dimensions, fingerprint_of(Path(model)))
        self._rules: CacheRules
        self._experience: Experience
        self._patience = Patience()
        self._embedded = 0
        self._draw = random.Random()  # noqa: S311  # It spreads lives; nobody gains by guessing it.
        self._pending: set[asyncio.Task[None]] = set()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart."""
        self._rules = Routing.model_validate(config["routing"]).cache
        experience = Experience(self._rules)
        try:
            experience.apply_all(await self._store.events())
        except (*FAILURES, ValueError) as error:
            self._patience.failed(error)
        self._experience = experience

    async def find_similar(self, missed: Lookup) -> Lookup:
        """Has a similar question been answered? Takes an exact lookup's miss that asks for this. Never raises;
        Redis never takes longer than its budget."""
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
        verdict = self._experience.decide(query, near, np.frombuffer(embedding, "<f4"), missed.partition)
        if not missed.only_checks:
            self._learn(saw(missed.partition, verdict.features))
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
        )
        if served is None or served.entry not in answers:
            return found
        return replace(found, outcome="semantic", answer=answers[served.entry], exact_key=served.entry)

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
            seconds = self._rules.ttl_seconds if life is None else life
            if not seconds:
                return
            kept = Kept(
                key=missed.exact_key,
                answer=answer,
                epoch=missed.epoch,
                scope=missed.scope,
                seconds=max(1, round(seconds * self._draw.uniform(1 - JITTER, 1 + JITTER))),
                fingerprint=missed.fingerprint,
                embedding=embedding,
                query=missed.query or "",
                group=group or missed.exact_key,
            )
            await self._store.put(kept)
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
            agreed = await agreement(answer.content, answers[one.entry].content, self._vectors) >= SAYS_THE_SAME
            if one.entry == missed.near[0].entry:
                self._learn(check(missed.partition, missed.features, group, agreed))
                if missed.only_checks and not agreed and missed.embedding is not None:
                    await self.refuse(one.entry, missed.embedding)
            same += [group] if agreed else []
        for other in same[1:]:
            self._learn(join(other, same[0]))
        return same[0] if same else None

    async def refuse(self, entry: str, embedding: bytes) -> None:
        """This entry was a false hit for a question with this embedding: it does not serve such a one again."""
        self._learn(veto(entry, embedding))
        if self._experience.vetoes(entry) >= self._rules.most_vetoes:
            await self.forget_entries([entry])

    async def forget_entries(self, entries: list[str]) -> int:
        """Delete these; how many there were. Raises `RedisError` where Redis is away."""
        return await self._store.forget(entries)

    async def owned(self, key_id: str, entries: list[str]) -> list[str]:
        """Those of these entries that may serve this key. Raises `RedisError` where Redis is away."""
        return await self._store.of_scope(self._scope(key_id), entries)

    async def entries(
        self, key_id: str, query: str | None, most_distance: float | None, variant: str | None, count: int
    ) -> list[dict[str, Any]]:
        """What is kept that may serve this key: the nearest to a query, or any. Raises `RedisError` where Redis
        is away."""
        embedding = self._embed_query(query) if query else None
        found = await self._store.shown(self._scope(key_id), embedding=embedding, variant=variant, count=count)
        return [
            _as_row(one)
            for one in found
            if most_distance is None or one.distance is None or one.distance <= most_distance
        ]

    def _scope(self, key_id: str) -> str:
        return EVERYONE if self._rules.scope == "shared" else key_id

    def _learn(self, event: Event) -> None:
        """Now, and for the next start."""
        self._experience.apply(event)
        task = asyncio.get_running_loop().create_task(self._note(event))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _note(self, event: Event) -> None:
        try:
            await self._store.note([event])
        except FAILURES as error:
            self._patience.failed(error)

    async def _vectors(self, texts: list[str]) -> list[list[float]]:
        vectors, _ = await self.embed(texts)
        return vectors

    async def embed_query(self, query: str) -> bytes:
        """A question's embedding (float32, little-endian), for a decision that no lookup comes before."""
        return self._embed_query(query)

    def _embed_query(self, query: str) -> bytes:
        self._embedded += 1
        return as_bytes(self._embedder.embed([query])[0])

    async def embed(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """Embeddings for `/v1/embeddings`, and the tokens read; in a thread, so that lookups go on."""
        vectors = await asyncio.to_thread(self._embedder.embed, texts)
        tokens = await asyncio.to_thread(self._embedder.count_tokens, texts)
        return vectors.tolist(), tokens

    async def stats(self) -> dict[str, Any]:
        """Entries now, the rules in force, and what is promised of them, by partition."""
        entries: dict[str, int] | None
        try:
            entries = await self._store.counts()
        except FAILURES:
            entries = None
        return {
            "entries": entries,
            "embedded": self._embedded,
            "mode": self._rules.mode,
            "distance_threshold": self._rules.distance,
            "wrong_per_request": self._rules.wrong_per_request,
            "ttl_seconds": self._rules.ttl_seconds,
            "partitions": {
                name: {"checks": checks, **asdict(one)}
                for name, (checks, one) in self._experience.report().items()
            },
        }

    async def clear(self) -> int:
        """Delete every entry. Raises `RedisError` where Redis is away."""
        return await self._store.clear()

    async def health(self) -> dict[str, Any]:
        """Whether Redis answers."""
        try:
            await self._store.ping()
            return {"ok": True, "error": None}
        except FAILURES as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def _as_row(one: Shown) -> dict[str, Any]:
    return {
        "id": one.entry,
        "query": one.query,
        "answer": one.answer.content,
        "variant": one.variant,
        "group": one.group,
        "distance": one.distance,
        "age_seconds": max(0, round(time.time() - one.answer.created)),
        "expires_in_seconds": max(0, round(one.expires_at - time.time())),
    }
