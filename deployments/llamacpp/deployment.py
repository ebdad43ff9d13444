"""A llama.cpp variant as a Serve deployment: the thin wrapper around `LlamaCppChat`."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from openai.types.chat import ChatCompletionChunk
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Gauge

from configs.catalog import VariantSpec
from configs.profile import ServedVariant
from deployments.contract import ChatRequest, RequestContext, not_ready, queue_full
from deployments.llamacpp.chat import ChatOptions, LlamaCppChat
from deployments.llamacpp.engine import EngineOptions, EngineStats
from deployments.llamacpp.sampling import SamplingOptions
from deployments.residency import RESIDENCY
from deployments.residency.gate import Gate, NotReady
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
            kv_dtype=served.kv_dtype,
        ),
        sampling=SamplingOptions(**spec.sampling.model_dump()),
        max_output=spec.max_output,
        template_kwargs=spec.template_kwargs,
        thinking_budget=spec.thinking_budget,
        gpu_layers=served.gpu_layers,
    )


@deployment
class LlamaCppVariant:
    """One GGUF model that answers many requests at once, while it is in memory.

    Kept always, it is there from the start. Else its gate is closed until Residency has it loaded.
    """

    def __init__(
        self, name: str, path: str, spec: VariantSpec, served: ServedVariant, wake_seconds: float
    ) -> None:
        self._name = name
        self._make = partial(LlamaCppChat, Path(path), chat_options(name, spec, served))
        self._wake_seconds = wake_seconds
        self._gate = Gate()
        self._chat: LlamaCppChat | None = None
        self._loading: asyncio.Task[LlamaCppChat] | None = None
        self._lock = asyncio.Lock()
        self._most_waiting = served.parallel + served.max_queue
        self._past = EngineStats()
        self._residency: DeploymentHandle | None = None
        if served.keep == "always":
            self._chat = self._make()
            self._gate.open()
        else:
            application = serve.get_replica_context().app_name
            self._residency = serve.get_deployment_handle(RESIDENCY, application)
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
        if not self._gate.is_open and self._gate.waiting >= self._most_waiting:
            raise queue_full(self._wake_seconds)
        try:
            async with self._gate.passage(self._wake_seconds, self._ask_to_be_loaded):
                chat = self._chat
                assert chat is not None
                # Closed with this generator, not when it is collected: a client that left must free its slot at
                # once.
                async with aclosing(chat.chat(request, context.request_id, tenant=context.key_id)) as steps:
                    async for chunks in steps:
                        yield chunks
        except NotReady as error:
            raise not_ready(self._name, str(error)) from error

    def _ask_to_be_loaded(self) -> None:
        assert self._residency is not None
        self._residency.wanted.remote(self._name)

    async def load(self) -> None:
        """Residency's word: the memory is yours. Returns when the model answers.

        Goes on although the caller dies meanwhile: a load cannot be stopped half-way, and what it has loaded
        must not be lost sight of.
        """
        async with self._lock:
            if self._chat is None:
                if self._loading is None:
                    self._loading = asyncio.create_task(asyncio.to_thread(self._make))
                    self._loading.add_done_callback(self._loaded)
                await asyncio.shield(self._loading)
            self._gate.open()

    def _loaded(self, loading: asyncio.Task[LlamaCppChat]) -> None:
        self._loading = None
        if not loading.cancelled() and loading.exception() is None:
            self._chat = loading.result()
            self._gate.open()

    async def unload(self) -> None:
        """Residency's word: leave. Takes nothing new, and returns when the last answer is out and the memory
        is free. Where the caller dies meanwhile, this stays, open as before."""
        async with self._lock:
            if self._loading is not None:
                await asyncio.shield(self._loading)
            try:
                await self._gate.drain()
            except asyncio.CancelledError:
                if self._chat is not None:
                    self._gate.open()
                raise
            await asyncio.shield(asyncio.create_task(self._free()))

    async def _free(self) -> None:
        chat, self._chat = self._chat, None
        if chat is not None:
            self._past = self._past.plus(chat.engine.stats)
            await asyncio.to_thread(chat.close)
            del chat
            return_freed_memory()

    async def fail(self, reason: str) -> None:
        """Residency's word: it cannot be loaded. Who waits is told."""
        self._gate.fail(reason)

    async def status(self) -> dict[str, Any]:
        """Live gauges: requests, tokens so far, resident memory (MiB)."""
        engine = self._chat.engine if self._chat else None
        stats = self._past.plus(engine.stats) if engine else self._past
        draining = engine is not None and not self._gate.is_open
        state = (
            "loading" if self._loading is not None else "draining" if draining else "awake" if engine else "absent"
        )
        return {
            "state": state,
            "active": engine.active if engine else 0,
            "waiting": (engine.queued if engine else 0) + self._gate.waiting,
            "at_the_gate": self._gate.waiting,
            "asked": self._gate.passed + self._gate.waiting,
            "prompt_tokens": stats.prompt_tokens,
            "prompt_reused": stats.prompt_reused,
            "completion_tokens": stats.completion_tokens,
            "cancelled": stats.cancelled,
            "preempted": stats.preempted,
            "memory_mb": psutil.Process().memory_info().rss // 2**20,
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
            await asyncio.sleep(METRICS_SECONDS)

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
