"""`/v1/cache/…`: what is kept, what is promised of it, and how it is forgotten."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from configs.adapters import may_ask
from deployments.contract import invalid
from serve_app.context import asker
from serve_app.parts import asked
from serve_app.schemas import (
    VARIANT_NAME,
    CacheEntries,
    CacheStats,
    Cleared,
    EntriesPinned,
    EntryIds,
    Forget,
    Forgotten,
)

routes = APIRouter()

MOST_ENTRIES = 1000
"""That are shown or searched for at once."""


@routes.get("/v1/cache/stats")
async def cache_stats(request: Request) -> CacheStats:
    """Outcomes, hit rate and entries of the cache, and what is promised of what it serves your key."""
    outcomes, entries = await asyncio.gather(
        asked("router", "cache_outcomes"),
        asked("cache", "stats", *asker(request)),
    )
    return CacheStats.model_validate({**outcomes, **entries})


@routes.get("/v1/cache/entries")
async def cache_entries(
    request: Request,
    query: Annotated[str | None, Query(min_length=1, max_length=2000)] = None,
    variant: Annotated[str | None, Query(pattern=VARIANT_NAME)] = None,
    knowledge: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 20,
) -> CacheEntries:
    """What is kept for similar questions and may serve this key: the nearest to a query, or any."""
    found = await _entries(request, query=query, variant=variant, knowledge=knowledge, count=limit)
    return CacheEntries.model_validate({"entries": found})


@routes.post("/v1/cache/forget")
async def cache_forget(body: Forget, request: Request) -> Forgotten:
    """Forget answers, everywhere and at once; what is being answered now is not kept either. By id, or those
    near a query, of a variant, or resting on some knowledge; a thousand at most that are searched for. (What
    only the very same request would be given is found by its knowledge alone: else it goes with its time, a
    thumbs-down, or `/v1/cache/clear`.)"""
    searched = {"query": body.query, "variant": body.variant, "knowledge": body.knowledge}
    if not (body.ids or any(searched.values())):
        raise invalid("Say `ids`, a `query`, a `variant`, or `knowledge`.", param="ids")
    found: list[dict[str, Any]] = []
    if any(searched.values()):
        found = await _entries(request, **searched, most_distance=body.distance, count=MOST_ENTRIES)
    ids = [one["id"] for one in found]
    if body.knowledge and not (body.query or body.variant):
        ids += await asked("cache", "resting_on", *asker(request), body.knowledge)
    if body.ids:
        ids += await asked("cache", "owned", *asker(request), body.ids)
    deleted = 0 if body.dry_run else await asked("cache", "forget_entries", ids)
    return Forgotten.model_validate({"deleted": deleted, "entries": found})


@routes.post("/v1/cache/pin")
async def cache_pin(body: EntryIds, request: Request) -> EntriesPinned:
    """Let entries of your key's stay until they are forgotten, whatever else is kept."""
    ids = await asked("cache", "owned", *asker(request), body.ids)
    return EntriesPinned(pinned=await asked("cache", "pin", ids))


@routes.post("/v1/cache/clear")
async def cache_clear() -> Cleared:
    """Delete every cached answer."""
    return Cleared(deleted=await asked("cache", "clear"))


async def _entries(request: Request, **wanted: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await asked("cache", "entries", *asker(request), **wanted)
    # (In a scope that keys share, what another's variant has said is not this key's to see.)
    may = request.state.key.variants
    return [one for one in found if may_ask(may, one["variant"])]
