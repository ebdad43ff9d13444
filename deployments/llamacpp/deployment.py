"""A llama.cpp variant as a Serve deployment: the thin wrapper around `LlamaCppChat`."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import psutil
from openai.types.chat import ChatCompletionChunk
from ray.serve.metrics import Counter

from configs.catalog import VariantSpec
from configs.home import home
from configs.machine import memory_of
from configs.profile import ServedVariant
from deployments.adapters.registry import Registry
from deployments.contract import ChatRequest, RequestContext
from deployments.llamacpp.chat import ChatOptions, LlamaCppChat
from deployments.llamacpp.engine import EngineOptions, EngineStats
from deployments.llamacpp.generation import EngineFailed
from deployments.llamacpp.sampling import SamplingOptions
from deployments.metrics import Gauge
from deployments.residency.resident import Resident
from deployments.serving import asks_residency, deployment

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
            threads=served.threads or 1,
            kv_dtype=served.kv_dtype,
        ),
        sampling=SamplingOptions(**spec.sampling.model_dump()),
        max_output=spec.max_output,
        template_kwargs=spec.template_kwargs,
        thinking_budget=spec.thinking_budget,
        gpu_layers=served.gpu_layers,
        adapters=home().adapters,
        max_adapters=served.max_adapters,
    )


@deployment
class LlamaCppVariant(Resident):
    """One GGUF model that answers many requests at once, while it is in memory. `file` lies in the node's home."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it.
        self, name: str, file: str, spec: VariantSpec, served: ServedVariant, wake_seconds: float
    ) -> None:
        always = served.keep == "always"
        self.reside(name, served, wake_seconds, None if always else asks_residency(name))
        self._make = partial(LlamaCppChat, home().root / file, chat_options(name, spec, served))
        self._warm_up_question = spec.warm_up
        self._chat: LlamaCppChat | None = None
        self._past = EngineStats()
        if always:
            await self._bring_in()
            self.is_in()
        self._active = Gauge("groupqwen_engine_active", "Requests that are being answered.", ("variant",))
        self._waiting = Gauge("groupqwen_engine_waiting", "Requests that wait for a slot.", ("variant",))
        self._tokens = Counter(
            "groupqwen_engine_tokens", "Tokens by kind: prompt, reused, completion.", ("variant", "kind")
        )
        self._adapters_loaded = Gauge(
            "groupqwen_engine_adapters", "Adapters that are loaded beside the model.", ("variant",)
        )
        self._adapters_mb = Gauge("groupqwen_engine_adapters_mb", "What they take, MiB.", ("variant",))
        self._registry = Registry(home().adapters)
        self._tags = {"variant": name}
        self._reported = (0, 0, 0)
        self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def _answer(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        chat = self._chat
        assert chat is not None
        steps = chat.chat(
            request,
            context.request_id,
            tenant=context.key_id,
            adapter=context.adapter,
            begin_within=context.begin_within,
            taken_up=None if context.trace is None else partial(self._note, context.request_id),
        )
        async with aclosing(steps):
            async for chunks in steps:
                yield chunks

    def _note(self, request_id: str) -> None:
        self._taken_up.setdefault(request_id, time.time())

    async def _bring_in(self) -> None:
        self._chat = await asyncio.to_thread(self._make)
        try:
            await self._warm_up(self._warm_up_question)
        except BaseException:
            # Whatever it was: what is not in service must not hold memory.
            await asyncio.shield(self._send_out(asleep=False))
            raise

    async def _send_out(self, asleep: bool) -> None:
        del asleep  # llama.cpp has no state between in and out.
        chat, self._chat = self._chat, None
        if chat is not None:
            self._past = self._past.plus(chat.engine.stats)
            await asyncio.to_thread(chat.close)
            del chat
            return_freed_memory()

    def _in_flight(self) -> dict[str, Any]:
        engine = self._chat.engine if self._chat else None
        stats = self._past.plus(engine.stats) if engine else self._past
        return {
            "active": engine.active if engine else 0,
            "waiting": engine.queued if engine else 0,
            "prompt_tokens": stats.prompt_tokens,
            "prompt_reused": stats.prompt_reused,
            "completion_tokens": stats.completion_tokens,
            "cancelled": stats.cancelled,
            "preempted": stats.preempted,
            "shed": stats.shed,
            "adapters": self._chat.adapters.report() if self._chat else {},
            **memory_of(psutil.Process()),
        }

    async def _report(self) -> None:
        while True:
            engine = self._chat.engine if self._chat else None
            stats = self._past.plus(engine.stats) if engine else self._past
            self._active.set(engine.active if engine else 0, self._tags)
            self._waiting.set((engine.queued if engine else 0) + self._gate.waiting, self._tags)
            now = (stats.prompt_tokens, stats.prompt_reused, stats.completion_tokens)
            for kind, before, after in zip(("prompt", "reused", "completion"), self._reported, now, strict=True):
                if after > before:
                    self._tokens.inc(after - before, {**self._tags, "kind": kind})
            self._reported = now
            await self._look_at_adapters()
            await asyncio.sleep(METRICS_SECONDS)

    async def _look_at_adapters(self) -> None:
        """Those that were demoted leave memory."""
        promoted = await self._registry.look()
        chat = self._chat
        if chat is not None:
            with suppress(EngineFailed):  # (Its health says so.)
                await chat.adapters.keep_only({one.key for one in promoted.values()})
        loaded = chat.adapters.report() if chat else {}
        self._adapters_loaded.set(len(loaded), self._tags)
        self._adapters_mb.set(sum(loaded.values()), self._tags)

    async def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
        if self._chat is not None and not self._chat.engine.alive:
            raise RuntimeError("the engine's step loop has died")

    def __del__(self) -> None:
        chat = getattr(self, "_chat", None)
        if chat is not None:
            chat.close()


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library would keep it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
