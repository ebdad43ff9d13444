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
from deployments.contract import AUTO, OWN, ChatRequest, RequestContext

VERSION = 4
"""Part of every key: raise it when what is stored or compared changes."""

EVERYONE = "everyone"
"""The scope in which keys are served from each other's answers."""

KNOWLEDGE = "knowledge"
"""In a request's `metadata`: the version of what the answer rests on ("handbook@3"). Answers of another version do
not serve, and all of one are forgotten by its name."""

_IRRELEVANT = {"stream", "stream_options", "user", "metadata", "max_completion_tokens"}


@dataclass(frozen=True)
class CacheKeys:
    """`exact` finds the same request; `fingerprint` (None: not eligible) and `query` a similar one. `scope`: whose
    entries they are. `why`: what keeps a similar one's answer from serving. `turn`: whether it is a later turn of
    a conversation, whose whole course is part of the fingerprint. `tag`: what the answer rests on."""

    exact: str
    fingerprint: str | None
    query: str
    scope: str
    why: str = ""
    turn: bool = False
    tag: str = ""


def scope_of(rules: CacheRules, key_id: str, group: str | None) -> str:
    """Whose entries may serve this key, and whom its answers may serve."""
    if group == OWN:
        return key_id
    if rules.scope == "shared":
        return EVERYONE
    # (No key's id holds a colon.)
    return f"group:{group}" if rules.scope == "group" and group else key_id


def cache_keys(request: ChatRequest, context: RequestContext, rules: CacheRules) -> CacheKeys | None:
    """The request's keys, or None if it may not touch the cache at all."""
    if not rules.enabled or context.cache == "bypass":
        return None
    eligible = eligibility(request, rules)
    if eligible.most == "bypass":
        return None
    fields = {key: value for key, value in request.model_dump(exclude_none=True).items() if key not in _IRRELEVANT}
    fields["max_tokens"] = request.token_limit
    fields["model"] = request.model or AUTO
    # Whose answer it is is part of every cache key: nobody is served from what someone else was told, unless the
    # owner shares. Who asks for the best is not served what thrift was given.
    scope = scope_of(rules, context.key_id, context.group)
    tag = str((request.metadata or {}).get(KNOWLEDGE, ""))
    surroundings = {
        "version": VERSION,
        "scope": f"{rules.scope}:{scope}",
        "knowledge": tag,
        "device": context.device,
        "preference": context.preference,
        # (Nor what a variant has said that this key may not ask.)
        "variants": None if context.variants is None else sorted(context.variants),
        **({"thrift": True} if context.thrift else {}),
        # (Nor what an adapter has said, or its base, where the other one answers.)
        **({"adapters": [one.key for one in context.adapters]} if context.adapters else {}),
    }
    exact = _digest({**surroundings, **fields})
    query = text_of(request.messages[-1].get("content"))
    if eligible.most == "exact":
        return CacheKeys(exact, None, query, scope, eligible.why, tag=tag)
    alike = _digest({**surroundings, **fields, "messages": request.messages[:-1]})
    return CacheKeys(exact, alike, query, scope, turn=eligible.turn, tag=tag)


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
