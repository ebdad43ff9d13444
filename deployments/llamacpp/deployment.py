"""A llama.cpp variant as a Serve deployment: the thin wrapper around `LlamaCppChat`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
from openai.types.chat import ChatCompletionChunk
from ray.serve.metrics import Counter, Gauge

from configs.catalog import VariantSpec
from configs.profile import ServedVariant
from deployments.contract import ChatRequest, RequestContext
from deployments.llamacpp.chat import ChatOptions, LlamaCppChat
from deployments.llamacpp.engine import EngineOptions
from deployments.llamacpp.sampling import SamplingOptions
from deployments.serving import deployment

METRICS_SECONDS = 1.0


def chat_options(name: str, spec: VariantSpec, served: ServedVariant) -> ChatOptions:
    """What the catalog and the profile say, in the engine's terms."""
    return ChatOptions(
        name=name,
        engine=EngineOptions(
            context=served.context,
            kv_tokens=served.pool_tokens,
            parallel=served.parallel,
            max_queue=served.max_queue,
            threads=served.threads,
        ),
        sampling=SamplingOptions(**spec.sampling.model_dump()),
        max_output=spec.max_output,
        template_kwargs=spec.template_kwargs,
        thinking_budget=spec.thinking_budget,
        gpu_layers=served.gpu_layers,
    )


@deployment
class LlamaCppVariant:
    """One GGUF model that answers many requests at once."""

    def __init__(self, name: str, path: str, spec: VariantSpec, served: ServedVariant) -> None:
        self._chat = LlamaCppChat(Path(path), chat_options(name, spec, served))
        self._active = Gauge("groupqwen_engine_active", "Requests that are being answered.", ("variant",))
        self._waiting = Gauge("groupqwen_engine_waiting", "Requests that wait for a slot.", ("variant",))
        self._tokens = Counter(
            "groupqwen_engine_tokens", "Tokens by kind: prompt, reused, completion.", ("variant", "kind")
        )
        self._tags = {"variant": name}
        self._reported = (0, 0, 0)
        self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def chat(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncIterator[list[ChatCompletionChunk]]:
        """The chat contract, in lists of what is there at once: fewer messages between processes."""
        # Closed with this generator, not when it is collected: a client that left must free its slot at once.
        async with aclosing(self._chat.chat(request, context.request_id, tenant=context.key_id)) as steps:
            async for chunks in steps:
                yield chunks

    async def status(self) -> dict[str, Any]:
        """Live gauges: requests, tokens so far, resident memory (MiB)."""
        engine = self._chat.engine
        stats = engine.stats
        return {
            "state": "awake",
            "active": engine.active,
            "waiting": engine.queued,
            "prompt_tokens": stats.prompt_tokens,
            "prompt_reused": stats.prompt_reused,
            "completion_tokens": stats.completion_tokens,
            "cancelled": stats.cancelled,
            "preempted": stats.preempted,
            "memory_mb": psutil.Process().memory_info().rss // 2**20,
        }

    async def _report(self) -> None:
        while True:
            engine = self._chat.engine
            stats = engine.stats
            self._active.set(engine.active, self._tags)
            self._waiting.set(engine.queued, self._tags)
            now = (stats.prompt_tokens, stats.prompt_reused, stats.completion_tokens)
            for kind, before, after in zip(("prompt", "reused", "completion"), self._reported, now, strict=True):
                if after > before:
                    self._tokens.inc(after - before, {**self._tags, "kind": kind})
            self._reported = now
            await asyncio.sleep(METRICS_SECONDS)

    async def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
        if not self._chat.engine.alive:
            raise RuntimeError("the engine's step loop has died")

    def __del__(self) -> None:
        chat = getattr(self, "_chat", None)
        if chat is not None:
            chat.close()
