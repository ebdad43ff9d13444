"""The Router's side of adapters: which of them answers a request, and how one is tried before anybody hears it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Container, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from openai.types.chat import ChatCompletionChunk

from configs.adapters import AdapterManifest, base_of
from configs.catalog import Catalog
from deployments.adapters.promotion import refused
from deployments.adapters.registry import Registry
from deployments.adapters.sides import arm, shadowing, sides, tried
from deployments.chunks import fold
from deployments.classifier.rules import Classification
from deployments.contract import Adapter, ChatRequest, RequestContext, adapter_broken
from deployments.router.conversations import conversation_of
from deployments.router.plans import Generate
from deployments.router.rules import Rules
from deployments.router.wishes import resolve_model

MOST_TRIED_TOKENS = 24
"""Of the answer by which it is seen that an adapter can be asked."""


class Reads(Protocol):
    """What classifies a question."""

    async def embedding(self, request: ChatRequest) -> bytes | None:
        """Where the classification hangs on it."""
        ...

    async def classification(self, request: ChatRequest, embedding: bytes | None = None) -> Classification:
        """By the Classifier, or without it."""
        ...


class Adapters:
    """Of one Router. Belongs to its event loop."""

    def __init__(self, registry: Registry, reader: Reads) -> None:
        self._registry, self._reader = registry, reader

    @property
    def promoted(self) -> Mapping[str, AdapterManifest]:
        """By model name, as it was at the last look; it changes with each."""
        return self._registry.promoted

    async def look(self) -> Mapping[str, AdapterManifest]:
        """Those that are promoted now."""
        return await self._registry.look()

    async def place(self, request: ChatRequest, context: RequestContext, rules: Rules) -> RequestContext:
        """The context with those that answer this request in their bases' place: the one that it names, or that a
        rule names, or those to whose share its conversation belongs. It is known before the cache is asked,
        because what they say is kept apart. Raises a 404 `ChatError`."""
        promoted = await self._registry.look()
        wish = resolve_model(request.model, rules.profile, rules.routing)
        if wish.kind == "variant":
            if base_of(wish.name) == wish.name:
                return context
            if wish.name not in promoted:
                raise self._registry.missing(wish.name)
            return replace(context, adapters=(Adapter(wish.name, promoted[wish.name].digest),))
        if not promoted:
            return context
        if rules.adapters_by_rule:
            found = await self._reader.classification(request, await self._reader.embedding(request))
            ruled = rules.adapter(request, context, found)
            if ruled is not None:
                return replace(context, adapters=(ruled,))
        mine = sides(promoted.values(), conversation_of(request, context))
        return replace(context, adapters=mine, drawn=True)

    def wanted(self, variant: str, context: RequestContext) -> Adapter | None:
        """What a variant is asked with. Raises a 404 `ChatError` where it was demoted meanwhile."""
        if base_of(variant) == variant:
            return None
        for one in context.adapters:
            if one.model == variant:
                return one
        if variant not in self.promoted:
            raise self._registry.missing(variant)
        return Adapter(variant, self.promoted[variant].digest, "shadow")

    def shadowing(self, variant: str, request_id: str) -> list[str]:
        """Those that are asked too, unheard, what this variant has answered."""
        return [one.model for one in shadowing(self.promoted.values(), variant, request_id)]

    def arm(self, variant: str, context: RequestContext) -> str | None:
        """Which side of a comparison an answer belongs to."""
        return arm(variant, context, tried(self.promoted))


async def try_out(generate: Generate, catalog: Catalog, served: Container[str], adapter: Adapter) -> str:
    """What its base answers with it; `served`: the variants that there are. Raises a `ChatError` that says why it
    does not."""
    base = base_of(adapter.model)
    if base not in served:
        raise refused(f"Its base {base!r} is not served by this profile.", "base_not_served")
    spec = catalog.variants[base]
    if spec.engine == "remote":
        raise adapter_broken(adapter.model, f"{base} is remote, and has no adapters of ours")
    asked = {"messages": [{"role": "user", "content": spec.warm_up.question}], "max_tokens": MOST_TRIED_TOKENS}
    request = ChatRequest.model_validate({**asked, "temperature": 0, "logprobs": True})
    context = RequestContext(f"try-{secrets.token_hex(8)}", adapter=adapter)
    chunks: list[ChatCompletionChunk] = []
    async with aclosing(generate(base, request, context)) as steps:
        async for found in steps:
            chunks += found
    choice = fold(chunks).choices[0]
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    thought = (choice.message.model_extra or {}).get("reasoning_content") or ""
    said = f"{thought}{choice.message.content or ''}"
    if not said.strip() or not all(math.isfinite(token.logprob) for token in tokens):
        raise adapter_broken(adapter.model, f"asked {spec.warm_up.question!r}, it said {said!r}")
    return said


def listed(models: Iterable[dict[str, Any]], promoted: Iterable[AdapterManifest]) -> list[dict[str, Any]]:
    """The adapters among the models of `/v1/models`, each as its base but for what is its own."""
    of_base = {model["id"]: model for model in models}
    return [
        {
            **of_base[one.base],
            "id": one.model,
            "created": int(one.created),
            "root": one.base,
            "parent": one.base,
            "title": f"{of_base[one.base]['title']}, fine-tuned as {one.name}",
            "roles": [],
            "share": one.promotion.share,
            "shadow": one.promotion.shadow,
        }
        for one in promoted
        if one.promotion is not None and one.base in of_base
    ]
