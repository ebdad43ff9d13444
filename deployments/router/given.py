"""Which answers the cache gave, or took: what someone finds bad must not come from it again. Pure."""

from __future__ import annotations

from collections import OrderedDict

from deployments.cache.answer import Lookup
from deployments.contract import RequestContext
from deployments.router.decision import Given

MOST = 10_000


def given_by(context: RequestContext, lookup: Lookup) -> Given | None:
    """The entry that a lookup has found, or that its answer will be; None where the cache is not for it."""
    if lookup.exact_key is None:
        return None
    return Given(context.key_id, lookup.exact_key, lookup.embedding if lookup.outcome == "semantic" else None)


class GivenAnswers:
    """The last `MOST` of them, by request id."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, Given] = OrderedDict()

    def note(self, request_id: str, given: Given | None) -> None:
        """A request was answered from the cache, or its answer is kept there."""
        if given is None:
            return
        self._given[request_id] = given
        if len(self._given) > MOST:
            self._given.popitem(last=False)

    def take(self, request_id: str, key_id: str) -> Given | None:
        """What was given for a request of this key's, once."""
        given = self._given.get(request_id)
        if given is None or given.key_id != key_id:
            return None
        return self._given.pop(request_id)
