"""The variants as the Router sees them: how each is, and its answer, its canary's, or what its node says when it
leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from openai.types.chat import ChatCompletionChunk
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from configs.adapters import base_of
from configs.catalog import Catalog
from configs.machine import memory_mb
from configs.placement import application_of
from configs.planner import lay_out, row_of
from configs.profile import Profile
from deployments.contract import ChatError, ChatRequest, RequestContext, engine_gone, node_away, queue_full
from deployments.router.canary import CANARY, Canary, CanaryRules
from deployments.router.nodes import NodeGone, Nodes
from deployments.serving import variant_of
from deployments.timing import within

logger = logging.getLogger("ray.serve")

STATUS_SECONDS = 2.0
CANARY_SECONDS = 30.0
"""So long a canary may take to its first token; then the old version is asked."""

_STARTED = int(time.time())


class Variants:
    """Every variant of the profile, wherever it runs. Belongs to one event loop."""

    def __init__(self, profile: Profile, catalog: Catalog, here: dict[str, DeploymentHandle]) -> None:
        """`here`: those of the Router's own application."""
        self._profile, self._catalog = profile, catalog
        on_nodes = {
            name: variant_of(application_of(served.node), name)
            for name, served in profile.variants.items()
            if served.node is not None
        }
        everywhere = {name: (here | on_nodes)[name] for name in profile.variants}
        # Handles to methods are made once: making one costs as much as using it.
        self._statuses = {name: handle.status for name, handle in everywhere.items()}
        self._chats = {name: handle.options(stream=True).chat for name, handle in everywhere.items()}
        self._nodes = Nodes({name: handle.status.remote for name, handle in on_nodes.items()})
        self._watching = asyncio.get_running_loop().create_task(self._nodes.watch()) if on_nodes else None
        self.loading: dict[str, float] = {}
        """Of those that are not in memory: seconds until they could begin. Changes as they come and go."""
        swapped = [name for name, served in profile.variants.items() if served.keep == "auto"]
        self._looking = asyncio.get_running_loop().create_task(self._look(swapped)) if swapped else None
        head_mb = memory_mb(profile.machine.accelerator)
        self._budgets = {
            device: lay_out(profile.on(device), catalog, head_mb).budget_mb for device in (None, *profile.nodes)
        }
        self._canaries: dict[str, Any] = {}
        self.canary: Canary | None = None

    @property
    def away(self) -> set[str]:
        """Those on machines that are not there now; the set changes as they come and go."""
        return self._nodes.away

    def try_out(self, rules: CanaryRules | None) -> None:
        """Give a canary its share from now on, or none."""
        names = () if rules is None else rules.variants
        self.canary = None if rules is None else Canary(rules)
        self._canaries = {name: variant_of(CANARY, name).options(stream=True).chat for name in names}

    async def generate(
        self, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """The variant's chunks, or its canary's, whose failure before the first of them nobody notices. (An
        adapter's name asks its base; with what, the context says.)"""
        variant = base_of(variant)
        canary = self.canary
        if canary is not None and canary.takes(variant, context.request_id):
            begun, refusal = False, None
            try:
                async with aclosing(self._ask(self._canaries[variant], variant, request, context)) as steps:
                    # A canary that is gone would be waited for as long as the request lasts.
                    chunks = await within(anext(steps), CANARY_SECONDS)
                    begun = True
                    yield chunks
                    async for chunks in steps:
                        yield chunks
                canary.ended("answered")
                return
            except (TimeoutError, StopAsyncIteration):
                refusal = engine_gone(variant)
            except ChatError as error:
                if begun:
                    canary.ended("failed")
                    raise
                refusal = error
            # The old version has the last word. What it refuses too is the client's mistake, and a full queue is
            # nobody's; all else is the canary's failure.
            async with aclosing(self._ask(self._chats[variant], variant, request, context)) as steps:
                async for chunks in steps:
                    if refusal is not None and refusal.status != 429:
                        canary.ended("failed")
                        logger.warning("the canary of %s failed: %s", variant, refusal)
                    refusal = None
                    yield chunks
            return
        async with aclosing(self._ask(self._chats[variant], variant, request, context)) as steps:
            async for chunks in steps:
                yield chunks

    async def _ask(
        self, chat: Any, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """The chunks of a handle's `chat`, failures in the contract's terms; closing it cancels the variant."""
        stream = chat.remote(request, context)
        steps: Any = self._nodes.until_gone(variant, stream) if variant in self._nodes else stream
        finished = False
        try:
            async for chunks in steps:
                yield chunks
            finished = True
        except RayTaskError as error:
            finished = True
            if isinstance(error.cause, ChatError):
                raise error.cause from None
            logger.exception("variant %s failed", variant)
            raise engine_gone(variant) from error
        except BackPressureError as error:
            raise queue_full(2.0) from error
        except (RayActorError, RayServeException) as error:
            finished = True
            raise self._gone(variant) from error
        except NodeGone as error:
            raise self._gone(variant) from error
        finally:
            if not finished:
                stream.cancel()

    def _gone(self, variant: str) -> ChatError:
        if variant not in self._nodes:
            return engine_gone(variant)
        # Its other requests need not find out by themselves.
        self._nodes.leaves(variant)
        return node_away(variant, str(self._profile.variants[variant].node))

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """How each is now: its `state`, and what its engine counts."""
        live = await asyncio.gather(*(self._status_of(name) for name in self._statuses))
        return dict(zip(self._statuses, live, strict=True))

    async def awake(self) -> list[str]:
        """Those that are in memory."""
        return [name for name, status in (await self.statuses()).items() if status["state"] == "awake"]

    async def _look(self, swapped: list[str]) -> None:
        """For ever: who would have to be brought in first."""
        while True:
            found = await asyncio.gather(*(self._status_of(name) for name in swapped))
            for name, status in zip(swapped, found, strict=True):
                if status["state"] == "awake":
                    self.loading.pop(name, None)
                else:
                    # Weights come at about a gigabyte a second.
                    self.loading[name] = max(0.5, self._catalog.variants[name].weights_mb / 1000)
            await asyncio.sleep(STATUS_SECONDS)

    async def models(self) -> list[dict[str, Any]]:
        """What each is and does, for `/v1/models`."""
        return [self._model(name, status) for name, status in (await self.statuses()).items()]

    async def _status_of(self, name: str) -> dict[str, Any]:
        if name in self._nodes.away:
            return {"state": "away"}
        try:
            status: dict[str, Any] = await within(self._statuses[name].remote(), STATUS_SECONDS)
            return status
        except (TimeoutError, RayActorError, RayTaskError, RayServeException):
            return {"state": "unavailable"}

    def _model(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        spec, served = self._catalog.variants[name], self._profile.variants[name]
        return {
            "id": name,
            "object": "model",
            "created": _STARTED,
            "owned_by": "groupqwen",
            "title": spec.title,
            "engine": spec.engine,
            "quantization": spec.quantization,
            "context": served.context,
            "capabilities": sorted(spec.capabilities),
            "parallel": served.parallel,
            "replicas": served.replicas,
            "node": served.node or "head",
            "node_budget_mb": self._budgets[served.node],
            "roles": [role for role, variant in self._profile.roles.items() if variant == name],
            "declared_memory_mb": row_of(name, spec, served).total_mb,
            "status": status,
        }
