"""Which requests may share an answer: the exact key and the compatibility fingerprint. Pure.

Two requests have one exact key if nothing that could change the answer differs between them. They
have one fingerprint if nothing but the wording of a single question differs: only then may a similar
question's answer serve.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from configs.routing import CacheRules
from deployments.cache.eligibility import eligibility
from deployments.classifier.rules import text_of
from deployments.contract import ChatRequest, RequestContext

VERSION = 3
"""Part of every key: raise it when what is stored or compared changes."""

EVERYONE = "everyone"
"""The scope in which keys are served from each other's answers."""

_IRRELEVANT = {"stream", "stream_options", "user", "metadata", "max_completion_tokens"}


@dataclass(frozen=True)
class CacheKeys:
    """`exact` finds the same request; `fingerprint` (None: not eligible) and `query` a similar one. `scope`: whose
    entries they are. `why`: what keeps a similar one's answer from serving."""

    exact: str
    fingerprint: str | None
    query: str
    scope: str
    why: str = ""


def cache_keys(request: ChatRequest, context: RequestContext, rules: CacheRules) -> CacheKeys | None:
    """The request's keys, or None if it may not touch the cache at all."""
    if not rules.enabled or context.cache == "bypass":
        return None
    eligible = eligibility(request, rules)
    if eligible.most == "bypass":
        return None
    fields = {key: value for key, value in request.model_dump(exclude_none=True).items() if key not in _IRRELEVANT}
    fields["max_tokens"] = request.token_limit
    # Whose answer it is is part of every cache key: nobody is served from what someone else was told, unless the
    # owner shares. Who asks for the best is not served what thrift was given.
    scope = EVERYONE if rules.scope == "shared" else context.key_id
    surroundings = {
        "version": VERSION,
        "scope": f"{rules.scope}:{scope}",
        "device": context.device,
        "preference": context.preference,
    }
    exact = _digest({**surroundings, **fields})
    query = text_of(request.messages[-1].get("content"))
    if eligible.most == "exact":
        return CacheKeys(exact, None, query, scope, eligible.why)
    alike = _digest({**surroundings, **fields, "messages": request.messages[:-1]})
    return CacheKeys(exact, alike, query, scope)


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
