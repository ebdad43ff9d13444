"""A vLLM variant as a Serve deployment: Ray's own `LLMServer`, with the chat contract and residency added."""

from __future__ import annotations

import asyncio
import inspect
import logging
import multiprocessing
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from openai.types.chat import ChatCompletionChunk
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    CompletionRequest,
    ErrorResponse,
)
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from configs.catalog import VariantSpec
from configs.home import home
from configs.machine import memory_of
from configs.profile import ServedVariant
from deployments.adapters.registry import Registry
from deployments.chunks import ChunkBuilder
from deployments.contract import (
    TOO_LONG,
    Adapter,
    ChatError,
    ChatRequest,
    RawPromptRequest,
    RequestContext,
    engine_gone,
    queue_full,
)
from deployments.control_tokens import ControlTokens
from deployments.metrics import Gauge
from deployments.repeating import repeat
from deployments.residency.resident import Resident
from deployments.serving import asks_residency, on_node
from deployments.vllm.adapters import Adapters
from deployments.vllm.chat import chat_fields, chunks_of, completion_fields, error_of
from deployments.vllm.options import VllmStart

logger = logging.getLogger("ray.serve")

LOOK_SECONDS = 1.0


class WeightsAreHere(CallbackBase):  # type: ignore[misc]
    """`pull` has brought the weights: Ray need not start a task on each node to look for them."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class PatientEngine(VLLMEngine):  # type: ignore[misc]
    """Ray's engine, whose start leaves the event loop free.

    Ray constructs vLLM's client on the loop, which takes as long as the model takes to load; nothing else of
    the replica would be answered meanwhile.
    """

    async def start(self) -> None:
        context = self.llm_config.get_or_create_callback().ctx
        prepared = await asyncio.to_thread(super()._prepare_engine_config, context)
        construct = super()._start_async_llm_engine
        client = await asyncio.to_thread(construct, prepared[0], prepared[2], context.placement_group)
        self._engine_client = client  # From here on it can be ended, whatever becomes of the rest.
        self._prepare_engine_config = lambda _: prepared
        self._start_async_llm_engine = lambda *_: client
        await super().start()

    def end(self) -> None:
        """End vLLM's processes; takes seconds."""
        if self._engine_client is None:
            return
        self._engine_client.shutdown()
        multiprocessing.active_children()  # Buries those that it had to kill.

    async def tokenizer(self) -> Any:
        """transformers' tokenizer of the model."""
        tokenizer = self._engine_client.get_tokenizer()
        return await tokenizer if inspect.isawaitable(tokenizer) else tokenizer

    @property
    def adapters(self) -> list[str]:
        """The keys of those that it knows. vLLM itself decides which of them are in memory."""
        return list(self._oai_models.lora_requests) if self._oai_models else []

    async def learn(self, key: str, folder: Path) -> None:
        """Have it know an adapter. Raises `ValueError` with vLLM's own words."""
        # (Ray's loader of adapters takes remote paths only; what it does then is this.)
        await self.resolve_lora(
            DiskMultiplexConfig(
                model_id=key, local_path=str(folder), max_total_tokens=None, lora_assigned_int_id=0
            )
        )

    async def forget(self, key: str) -> None:
        """What is under way with it ends as it began."""
        request = self._oai_models.lora_requests.pop(key, None)
        if request is not None:
            await self._engine_client.remove_lora(request.lora_int_id)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds, as vLLM has laid it out."""
        cache = self._engine_client.vllm_config.cache_config
        return int(cache.num_gpu_blocks * cache.block_size)


def control_tokens(tokenizer: Any) -> ControlTokens:
    """Those of a transformers tokenizer. vLLM tokenizes what it has rendered in one piece: what parts a typed one
    stays in the prompt: a space of no width."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return ControlTokens([*tokenizer.all_special_tokens, *added], "\u200b")


@on_node
class VllmVariant(Resident, LLMServer):  # type: ignore[misc]
    """One model on vLLM, while it is in memory."""

    _default_engine_cls = PatientEngine
    engine: PatientEngine | None

    async def __init__(  # type: ignore[misc]  # As LLMServer's own, which Serve awaits.
        self,
        llm_config: LLMConfig,
        *,
        plan: VllmStart,
        spec: VariantSpec,
        served: ServedVariant,
        wake_seconds: float,
    ) -> None:
        always = served.keep == "always"
        self.reside(plan.name, served, wake_seconds, None if always else asks_residency(plan.name))
        self._plan, self._spec = plan, spec
        self._room = served.parallel + served.max_queue
        self._parallel = served.parallel
        self._context = served.context
        self._counts = {"prompt_tokens": 0, "prompt_reused": 0, "completion_tokens": 0, "cancelled": 0}
        self._always = always
        enabled = spec.vllm is not None and spec.vllm.enable_lora
        self._adapters = Adapters(home().adapters, plan.name, enabled=enabled)
        self._registry = Registry(home().adapters)
        self._adapters_known = Gauge(
            "groupqwen_engine_adapters", "Adapters that are loaded beside the model.", ("variant",)
        )
        self._adapters_mb = Gauge("groupqwen_engine_adapters_mb", "What they take, MiB.", ("variant",))
        self._looking = asyncio.get_running_loop().create_task(repeat(self._look_at_adapters, LOOK_SECONDS))
        # The head has made its configuration with its own paths.
        mine = plan.llm_config(home().root)
        callbacks, options = llm_config.callback_config, llm_config.deployment_config
        await super().__init__(LLMConfig(**mine, callback_config=callbacks, deployment_config=options))

    async def start(self) -> None:
        """Called by Ray's constructor."""
        if self._always:
            await self._bring_in()
            self.is_in()

    async def _bring_in(self) -> None:
        if self._state == "asleep":
            try:
                await self._wake()
                return
            except Exception:
                # It may have died in its sleep, or be half awake: it starts anew.
                logger.exception("%s did not wake up", self._name)
                await self._send_out(asleep=False)
                self._state = "absent"
        try:
            await LLMServer.start(self)
            assert self.engine is not None
            self._control = control_tokens(await self.engine.tokenizer())
            await self._warm_up(self._spec.warm_up)
        except BaseException:
            # Whatever it was: what is not in service must not hold memory.
            await asyncio.shield(self._send_out(asleep=False))
            raise

    async def _start_engine(self) -> None:
        """As Ray's own, but for its report of what is served here, which is nobody's business."""
        assert self.engine is not None
        await self.engine.start()

    async def _wake(self) -> None:
        if self._plan.sleep_level == 1:
            await self.wakeup()
            return
        # Level 2 has thrown the weights away: they are read again before the KV cache is there.
        await self.wakeup(tags=["weights"])
        await self.collective_rpc("reload_weights")
        await self.wakeup(tags=["kv_cache"])

    async def _send_out(self, asleep: bool) -> None:
        if asleep:
            await self.reset_prefix_cache()
            await self.sleep(level=self._plan.sleep_level)
            return
        engine, self.engine = self.engine, None
        if engine is not None:
            await asyncio.to_thread(engine.end)

    async def _answer(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        if self._gate.inside > self._room:
            raise queue_full(2.0)
        try:
            # Closed with this generator, so that vLLM drops the request of a client that left at once.
            async with (
                self._with(context.adapter) as model,
                aclosing(self._within_context(request, context, model)) as steps,
            ):
                async for chunks in steps:
                    self._count(chunks)
                    yield chunks
        except (asyncio.CancelledError, GeneratorExit):
            self._counts["cancelled"] += 1
            raise

    @asynccontextmanager
    async def _with(self, adapter: Adapter | None) -> AsyncIterator[str]:
        """What vLLM knows the model by, with this adapter. Raises `ChatError`."""
        if adapter is None:
            yield self._name
            return
        if self.engine is None:
            raise engine_gone(self._name)
        async with self._adapters.using(self.engine, adapter) as key:
            yield key

    async def _within_context(
        self, request: ChatRequest, context: RequestContext, model: str
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        builder = ChunkBuilder(context.request_id, context.adapter.model if context.adapter else self._name)
        raw = isinstance(request, RawPromptRequest)
        if not raw:
            written = {"messages": request.messages, "tools": request.tools}
            request = request.model_copy(update=self._control.disarm(written))
        make = completion_fields if isinstance(request, RawPromptRequest) else chat_fields
        fields = make(request, self._spec, builder.id)  # type: ignore[arg-type]  # mypy joins the two functions
        fields["model"] = model
        try:
            async with aclosing(self._steps(fields, raw, builder)) as steps:
                async for chunks in steps:
                    yield chunks
        except ChatError as error:
            if error.code != TOO_LONG or fields["max_tokens"] <= 1:
                raise
            # vLLM refuses a limit that does not fit beside the prompt, before it has begun. Only a prompt that
            # does not fit by itself is refused now.
            left = await self._left_beside(request) if raw else None
            if left is not None and left < 1:
                raise
            fields["max_tokens"] = left  # None is what is left, for a chat; for a raw prompt it would be 16.
            async with aclosing(self._steps(fields, raw, builder)) as steps:
                async for chunks in steps:
                    yield chunks

    async def _look_at_adapters(self) -> None:
        """vLLM forgets those that were demoted."""
        promoted = await self._registry.look()
        engine = self.engine if self._state == "awake" else None
        if engine is not None:
            await self._adapters.keep_only(engine, {one.key for one in promoted.values()})
        known = self._adapters.report(engine) if engine else {}
        self._adapters_known.set(len(known), {"variant": self._name})
        self._adapters_mb.set(sum(known.values()), {"variant": self._name})

    async def _left_beside(self, request: ChatRequest) -> int:
        """Tokens of the context that a raw prompt leaves."""
        assert isinstance(request, RawPromptRequest) and self.engine is not None
        prompt = request.prompt
        tokens = prompt if isinstance(prompt, list) else (await self.engine.tokenizer()).encode(prompt)
        return self._context - len(tokens)

    async def _steps(
        self, fields: dict[str, Any], raw: bool, builder: ChunkBuilder
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        if self.engine is None:
            raise engine_gone(self._name)
        if raw:
            events = self.engine.completions(CompletionRequest(**fields))
        else:
            events = self.engine.chat(ChatCompletionRequest(**fields))
        async with aclosing(events):
            async for event in events:
                if isinstance(event, ErrorResponse):
                    raise error_of(event.error.model_dump())
                chunks = chunks_of(event, builder)
                if chunks:
                    yield chunks

    def _count(self, chunks: list[ChatCompletionChunk]) -> None:
        for chunk in chunks:
            if chunk.usage is not None:
                details = chunk.usage.prompt_tokens_details
                self._counts["prompt_tokens"] += chunk.usage.prompt_tokens
                self._counts["prompt_reused"] += (details.cached_tokens or 0) if details else 0
                self._counts["completion_tokens"] += chunk.usage.completion_tokens

    def _in_flight(self) -> dict[str, Any]:
        inside = self._gate.inside
        return {
            "active": min(inside, self._parallel),
            "waiting": max(0, inside - self._parallel),
            **self._counts,
            "adapters": self._adapters.report(self.engine) if self.engine else {},
            "kv_tokens": self.engine.kv_tokens if self.engine and self._state == "awake" else 0,
            **memory_of(psutil.Process()),
        }

    async def check_health(self) -> None:
        """Serve restarts this when it raises."""
        await super().check_health()
        if self.engine is not None and self._coming is None:
            await LLMServer.check_health(self)


def bind_vllm(
    plan: VllmStart, spec: VariantSpec, served: ServedVariant, wake_seconds: float, options: dict[str, Any]
) -> serve.Application:
    """A node of the graph. `options`: Serve's, as for every other variant; what Ray reserves is the placement
    group's."""
    # CPUs and the share of a card are those of the placement group, which the replica is a part of.
    options = {**options, "ray_actor_options": {"num_cpus": 0}}
    config = LLMConfig(
        **plan.llm_config(home().root),
        callback_config={"callback_class": WeightsAreHere},
        deployment_config=options,
    )
    arguments = {"plan": plan, "spec": spec, "served": served, "wake_seconds": wake_seconds}
    deployment_options = VllmVariant.get_deployment_options(config)
    return serve.deployment(VllmVariant, **deployment_options).bind(config, **arguments)
