"""The SemanticCache as a Serve deployment: similar questions, what is kept, and what was learned of it. It also
holds the group's one embedder. (The Router makes the exact lookup itself, see `exact`.)"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from redis.exceptions import RedisError

from configs.routing import CacheRules, Routing
from deployments.cache.answer import CachedAnswer, Lookup
from deployments.cache.canonical import EVERYONE
from deployments.cache.experience import ALL, Event, Experience, check, join, saw, veto
from deployments.cache.guards import negation, numbers, words_of
from deployments.cache.patience import Patience
from deployments.cache.store import KEPT_EVENTS, CacheStore, Kept, Shown, as_bytes, connect
from deployments.contract import engine_gone
from deployments.embedding.embedder import Embedder, fingerprint_of
from deployments.router.shadows import agreement
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")

SHORT_WORDS = 40
"""Two answers of so many words or fewer are also read for other numbers, a negation, another yes or no."""

JITTER = 0.1
"""Of an entry's life, so that what was asked together is not asked anew together."""

DIGEST_SECONDS = 0.2
"""What is learned within this time is written down together."""

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
        self._experience = Experience(CacheRules())
        self._remembers = False
        self._unwritten: list[Event] = []
        self._patience = Patience()
        self._embedded = 0
        self._draw = random.Random()  # noqa: S311  # It spreads lives; nobody gains by guessing it.
        self._pending: set[asyncio.Task[None]] = set()
        self._writing = False

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart."""
        self._rules = Routing.model_validate(config["routing"]).cache
        self._experience.take(self._rules)
        if not self._remembers:
            await self._remember()

    async def _remember(self) -> None:
        """What was learned before the start; where Redis is away, at a later lookup."""
        try:
            events = await self._store.events()
        except (*FAILURES, ValueError) as error:
            self._patience.failed(error)
            return
        self._remembers = True
        self._experience.apply_all(events)

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
        # (Asked afresh, its own answer of before is no neighbour.)
        near = [one for one in near if one.entry != missed.exact_key]
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
                group=group or f"{missed.exact_key}:{answer.created}",
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
            agreed = await self._say_the_same(answer.content, answers[one.entry].content)
            if one.entry == missed.near[0].entry:
                self._learn(check(missed.partition, missed.features, group, agreed))
                if missed.only_checks and not agreed and missed.embedding is not None:
                    await self.refuse(one.entry, missed.embedding)
            same += [group] if agreed else []
        for other in same[1:]:
            self._learn(join(other, same[0]))
        return same[0] if same else None

    async def _say_the_same(self, one: str, other: str) -> bool:
        """Whether one answer may stand for the other; what is in doubt counts as wrong."""
        if all(len(text.split()) <= SHORT_WORDS for text in (one, other)):
            begin = [(words_of(text) or ("",))[0] for text in (one, other)]
            if begin[0] != begin[1] and {"yes", "no"} & set(begin):
                return False
            if numbers(one, other) or negation(one, other):
                return False
        return await agreement(one, other, self._vectors) >= 1.0

    async def doubted(self, missed: Lookup) -> None:
        """The fresh answer was not one to rely on: whether the neighbour's would have done is not known, and
        counts as wrong."""
        if missed.features is not None and missed.near:
            group = self._experience.group(missed.near[0].group)
            self._learn(check(missed.partition, missed.features, group, False))

    async def refuse(self, entry: str, embedding: bytes) -> None:
        """This entry was a false hit for a question with this embedding: it does not serve such a one again."""
        self._learn(veto(entry, embedding))
        if self._experience.vetoes(entry) >= self._rules.most_vetoes:
            await self.forget_entries([entry])

    async def forget_entries(self, entries: list[str]) -> int:
        """Delete these; how many there were. Raises `ChatError` where Redis is away."""
        with _or_told():
            return await self._store.forget(entries)

    async def owned(self, key_id: str, entries: list[str]) -> list[str]:
        """Those of these entries that may serve this key. Raises `ChatError` where Redis is away."""
        with _or_told():
            return await self._store.of_scope(self._scope(key_id), entries)

    async def entries(
        self, key_id: str, query: str | None, most_distance: float | None, variant: str | None, count: int
    ) -> list[dict[str, Any]]:
        """What is kept that may serve this key: the nearest to a query, or any. Raises `ChatError` where Redis is
        away."""
        embedding = self._embed_query(query) if query else None
        with _or_told():
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
        self._unwritten.append(event)
        if not self._writing:
            self._writing = True
            task = asyncio.get_running_loop().create_task(self._digest())
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _digest(self) -> None:
        """Write down what was learned since, all in one, and reckon anew what follows from it, in a thread:
        lookups go on meanwhile."""
        try:
            await asyncio.sleep(DIGEST_SECONDS)
            while self._unwritten:
                events, self._unwritten = self._unwritten[-KEPT_EVENTS:], []
                if not self._remembers:
                    await self._remember()
                await self._store.note(events)
                await self._experience.renew()
        except FAILURES as error:
            self._patience.failed(error)
        finally:
            self._writing = False

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

    async def stats(self, key_id: str) -> dict[str, Any]:
        """Entries now, the rules in force, and what is promised: of all, and by kind in this key's scope."""
        own = f"{self._scope(key_id)}:"
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
                name.removeprefix(own): {"checks": checks, **asdict(one)}
                for name, (checks, one) in self._experience.report().items()
                if name == ALL or name.startswith(own)
            },
        }

    async def clear(self) -> int:
        """Delete every entry. Raises `ChatError` where Redis is away."""
        with _or_told():
            return await self._store.clear()

    async def health(self) -> dict[str, Any]:
        """Whether Redis answers."""
        try:
            await self._store.ping()
            return {"ok": True, "error": None}
        except FAILURES as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}


@contextmanager
def _or_told() -> Iterator[None]:
    """A Redis that is away is told as such."""
    try:
        yield
    except FAILURES as error:
        logger.warning("the cache's Redis did not answer: %s", error)
        raise engine_gone("cache") from error


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
