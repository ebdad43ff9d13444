"""Whose answer a conversation gets, where an adapter is given a share of its base's. Pure.

Drawn by the conversation, so that it stays on its side: through its turns, in every Router, after a restart, and
while the share grows. Each adapter draws for itself, so that a newer one that comes or goes moves none of an older
one's conversations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from configs.adapters import AdapterManifest, base_of
from deployments.contract import Adapter, RequestContext


def drawn(name: str, what: str) -> float:
    """A number from 0 to 1, always the same for the same."""
    digest = hashlib.blake2b(f"{name}\0{what}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def sides(promoted: Iterable[AdapterManifest], conversation: str) -> tuple[Adapter, ...]:
    """The adapters that answer this conversation, at most one of each base."""
    chosen: dict[str, Adapter] = {}
    left: dict[str, float] = {}
    for one in sorted(promoted, key=lambda one: (one.created, one.name)):
        share = one.promotion.share if one.promotion else 0.0
        rest = left.get(one.base, 1.0)
        # (Of what the older ones have left: so each has its share of the whole.)
        if share and one.base not in chosen and drawn(one.name, conversation) * rest < share:
            chosen[one.base] = Adapter(one.model, one.digest, "share")
        left[one.base] = max(0.0, rest - share)
    return tuple(chosen.values())


def shadowing(promoted: Iterable[AdapterManifest], variant: str, request_id: str) -> list[Adapter]:
    """The adapters that are asked too, unheard, what `variant` has answered."""
    return [
        Adapter(one.model, one.digest, "shadow")
        for one in promoted
        if one.base == variant
        and one.promotion is not None
        and drawn(f"{one.name} shadow", request_id) < one.promotion.shadow
    ]


def tried(promoted: Mapping[str, AdapterManifest]) -> frozenset[str]:
    """Variants that share their requests with an adapter."""
    return frozenset(one.base for one in promoted.values() if one.promotion is not None and one.promotion.share)


def arm(variant: str, context: RequestContext, bases: frozenset[str]) -> str | None:
    """Which side of a comparison an answer of `variant` belongs to: the adapter's, or the base's; None where
    nothing is compared, or nothing was drawn."""
    if not context.drawn:
        return None
    if any(one.model == variant for one in context.adapters):
        return "adapter"
    # (One that stands in for its adapter was not drawn.)
    return "base" if variant in bases and belongs(variant, context.adapters) else None


def belongs(variant: str, adapters: Sequence[Adapter]) -> bool:
    """Whether an answer of `variant` may be kept among those of requests that these adapters answer: neither a
    base's beside its adapter's, nor an adapter's beside its base's."""
    models = {one.model for one in adapters}
    return variant in models if base_of(variant) != variant else variant not in set(map(base_of, models))
