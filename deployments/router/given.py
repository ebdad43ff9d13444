"""Which entry of the cache an answer came from, or became: what someone finds bad must not come from it again.
Pure."""

from __future__ import annotations

from deployments.cache.answer import Lookup
from deployments.contract import RequestContext
from deployments.router.decision import Given


def given_by(context: RequestContext, lookup: Lookup) -> Given | None:
    """The entry that a lookup has found, or that its answer will be; None where the cache is not for it."""
    if lookup.exact_key is None:
        return None
    return Given(context.key_id, lookup.exact_key, lookup.embedding if lookup.outcome == "semantic" else None)
