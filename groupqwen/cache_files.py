"""The cache's entries in files: taken out, put in, or asked for beforehand. On the owner's machine only, past the
endpoint: who can write entries decides what others are told."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.home import Home, home
from configs.routing import PREFERENCES, CacheRules
from deployments.cache.answer import CachedAnswer
from deployments.cache.canonical import KNOWLEDGE, cache_keys
from deployments.cache.entries import Kept
from deployments.cache.exact_store import connect
from deployments.cache.seal import seal_of
from deployments.cache.space import PINNED
from deployments.cache.store import CacheStore
from deployments.contract import ChatRequest, RequestContext
from deployments.embedding.embedder import fingerprint_of
from groupqwen.stack.credentials import load_credentials
from groupqwen.stack.lifecycle import remembered, settings_for
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings
from groupqwen.vectors import vectors_of
from serve_app.keys import ApiKey, read_keys

WRITTEN = "written by hand"
"""The variant of an answer that none gave."""


class CacheFileError(Exception):
    """A file that holds no entries, with the line."""


@dataclass(frozen=True)
class Written:
    """A row by a person. `query` is asked alone, after the `system` prompt, with no other parameters."""

    query: str
    answer: str
    model: str | None = None
    system: str | None = None
    knowledge: str | None = None


async def taken_out(store: CacheStore, seal: str) -> AsyncIterator[str]:
    """Every entry as a line of JSON."""
    async for kept in store.everything():
        expires_at = None if kept.seconds == PINNED else round(time.time()) + kept.seconds
        row = {**asdict(kept), "seal": seal, "expires_at": expires_at}
        left_out = ("epoch", "embedding", "seconds")
        yield json.dumps({name: value for name, value in row.items() if name not in left_out})


def read_entries(path: Path, store: CacheStore, seal: str, key: ApiKey, rules: CacheRules) -> Iterator[Kept]:
    """Entries of a file that `taken_out` has written (but those whose time is over), or that a person has:
    `query` and `answer` in each line, and perhaps `model`, `system`, `knowledge`. Raises `CacheFileError`."""
    with path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                kept = _taken(row, seal) if "key" in row else _written(Written(**row), store, key, rules)
            except (ValueError, TypeError, KeyError) as error:
                raise CacheFileError(f"{path}, line {number}: {error}") from error
            if kept is not None:
                yield kept


def _taken(row: dict[str, Any], seal: str) -> Kept | None:
    if row.pop("seal") != seal:
        raise ValueError("it was kept under another key (or none), by which entries are named")
    expires_at = row.pop("expires_at")
    left = PINNED if expires_at is None else round(float(expires_at) - time.time())
    if expires_at is not None and left <= 0:
        return None
    return Kept(**{**row, "answer": CachedAnswer(**row["answer"]), "epoch": "", "seconds": left})


def _written(row: Written, store: CacheStore, key: ApiKey, rules: CacheRules) -> Kept:
    system = [] if row.system is None else [{"role": "system", "content": row.system}]
    messages = [*system, {"role": "user", "content": row.query}]
    metadata = None if row.knowledge is None else {KNOWLEDGE: row.knowledge}
    request = ChatRequest.model_validate({"messages": messages, "model": row.model, "metadata": metadata})
    context = request_of(key)
    keys = cache_keys(request, context, rules)
    if keys is None:
        raise ValueError(f"{row.query!r} is never answered from the cache (groupqwen cache explain)")
    return Kept(
        key=store.named(keys.exact),
        answer=CachedAnswer.by_hand(WRITTEN, row.answer),
        epoch="",
        scope=keys.scope,
        seconds=PINNED,
        fingerprint=None if keys.fingerprint is None else store.named(keys.fingerprint),
        query=keys.query,
        tag=keys.tag,
    )


def request_of(key: ApiKey) -> RequestContext:
    """A request with this key that says nothing else of itself."""
    preference = next((known for known in PREFERENCES if known == key.preference), None)
    return RequestContext(
        "import", key.id, group=key.group, preference=preference, variants=key.variants, remote=key.remote
    )


async def put_in(store: CacheStore, entries: Sequence[Kept], console: Console) -> int:
    """Keep these, with vectors by the embedder that is used here; how many there are now."""
    vectors = vectors_of([kept.query for kept in entries], console)
    if vectors is None:
        raise CacheFileError("without an embedder nothing can be found again: run `bash scripts/up.sh`")
    count = 0
    for place, kept in enumerate(entries):
        # (Somebody may forget something meanwhile: that is not about these.)
        _, epoch = await store.get("")
        embedding = vectors.values[place].astype("<f4").tobytes()
        found = kept.fingerprint is not None
        count += await store.put(replace(kept, epoch=epoch, embedding=embedding if found else None))
    return count


@asynccontextmanager
async def here() -> AsyncIterator[tuple[CacheStore, str, Settings]]:
    """The store of the group that runs here, the name of its seal, and the group's settings. Raises
    `StartProblem`."""
    choices = remembered(home())
    if choices is None:
        raise StartProblem("nothing has been started here yet: run `bash scripts/up.sh`")
    settings = settings_for(home(), choices)
    name = settings.profile.embedder
    seal = seal_of(home().cache_key)
    redis = connect(settings.environment(load_credentials(home()))["GROUPQWEN_REDIS_URL"])
    embedder = fingerprint_of(home().embedder_file(name))
    try:
        yield CacheStore(redis, settings.catalog.embedders[name].dimensions, embedder, seal), seal.name, settings
    finally:
        await redis.aclose()


def owner(home: Home, key_id: str | None) -> ApiKey:
    """The key of this id, or the first. Raises `CacheFileError`."""
    found = [key for key in read_keys(home.keys) if key_id in (None, key.id)]
    if not found:
        raise CacheFileError(f"there is no key {key_id!r}; see `groupqwen keys list`")
    return found[0]
