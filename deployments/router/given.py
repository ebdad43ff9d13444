"""Which answers the cache gave, or took: what someone finds bad must not come from it again. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from deployments.cache.answer import Lookup
from deployments.contract import RequestContext

MOST = 10_000


@dataclass(frozen=True)
class Given:
    """An entry, and, where it served a similar question, that one's embedding."""

    key_id: str
    entry: str
    embedding: bytes | None


class GivenAnswers:
    """The last `MOST` of them, by request id."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, Given] = OrderedDict()

    def note(self, context: RequestContext, lookup: Lookup) -> None:
        """A request was answered from the cache, or its answer is kept there."""
        if lookup.exact_key is None:
            return
        similar = lookup.embedding if lookup.outcome == "semantic" else None
        self._given[context.request_id] = Given(context.key_id, lookup.exact_key, similar)
        if len(self._given) > MOST:
            self._given.popitem(last=False)

    def take(self, request_id: str, key_id: str) -> Given | None:
        """What was given for a request of this key's, once."""
        given = self._given.get(request_id)
        if given is None or given.key_id != key_id:
            return None
        return self._given.pop(request_id)
