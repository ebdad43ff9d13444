"""Which requests may share an answer: eligibility, the exact key, the compatibility fingerprint. Pure.

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
from deployments.classifier.rules import has_images, text_of
from deployments.contract import ChatRequest, RawPromptRequest, RequestContext

VERSION = 2
"""Part of every key: raise it when what is stored or compared changes."""

MAX_QUERY_CHARS = 2_000
"""Longer questions are looked up exactly only: an embedding of the first 256 tokens cannot tell them apart."""

TASK_PREFIX = "### Task:"
"""How front ends begin their side requests (titles, tags), whose text resembles the user's own question."""

_IRRELEVANT = {"stream", "stream_options", "user", "metadata", "max_completion_tokens"}


@dataclass(frozen=True)
class CacheKeys:
    """`exact` finds the same request; `fingerprint` (None: not eligible) and `query` a similar one."""

    exact: str
    fingerprint: str | None
    query: str


def cache_keys(request: ChatRequest, context: RequestContext, rules: CacheRules) -> CacheKeys | None:
    """The request's keys, or None if it may not touch the cache at all."""
    if not rules.enabled or context.cache == "bypass" or not _eligible(request, rules):
        return None
    fields = {key: value for key, value in request.model_dump(exclude_none=True).items() if key not in _IRRELEVANT}
    fields["max_tokens"] = request.token_limit
    # The asking key is part of every cache key: nobody is served from what someone else was told.
    # Who asks for the best is not served what thrift was given.
    scope = {
        "version": VERSION,
        "scope": context.key_id,
        "device": context.device,
        "preference": context.preference,
    }
    exact = _digest({**scope, **fields})
    query = text_of(request.messages[-1].get("content"))
    if not _semantically_eligible(request, query):
        return CacheKeys(exact, None, query)
    surroundings = {**fields, "messages": request.messages[:-1]}
    return CacheKeys(exact, _digest({**scope, **surroundings}), query)


def _eligible(request: ChatRequest, rules: CacheRules) -> bool:
    """Whether the answer would be the same tomorrow, and is one text."""
    temperature = request.temperature
    return not (
        request.n > 1
        or request.logprobs
        or request.tools
        or (temperature is not None and temperature > rules.max_temperature)
        or has_images(request.messages)
        or isinstance(request, RawPromptRequest)
    )


def _semantically_eligible(request: ChatRequest, query: str) -> bool:
    """One question, on its own: any history, structure or seed makes similarity of wording too little."""
    turns = [message for message in request.messages if message["role"] not in ("system", "developer")]
    return (
        len(turns) == 1
        # (What is looked up is the last message: a system message after the question is not the question.)
        and request.messages[-1]["role"] == "user"
        and request.seed is None
        and (request.response_format or {}).get("type", "text") == "text"
        and not request.logit_bias
        and 0 < len(query.strip()) <= MAX_QUERY_CHARS
        and not query.lstrip().startswith(TASK_PREFIX)
    )


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
