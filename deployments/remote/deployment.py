"""A remote variant as a Serve deployment: the thin wrapper around `RemoteChat`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import psutil
from openai.types.chat import ChatCompletionChunk

from configs.catalog import VariantSpec
from configs.machine import memory_of
from configs.profile import ServedVariant
from deployments.contract import ChatRequest, RequestContext
from deployments.remote.chat import RemoteChat
from deployments.residency.resident import Resident
from deployments.serving import deployment


@deployment
class RemoteVariant(Resident):
    """One model of an endpoint elsewhere. It is there always: whether it answers shows when it is asked."""

    def __init__(self, name: str, spec: VariantSpec, served: ServedVariant) -> None:
        self.reside(name, served, 0.0, None)
        self._chat = RemoteChat(name, spec)
        self._active = 0
        self.is_in()

    async def _answer(
        self, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        self._active += 1
        try:
            async with aclosing(self._chat.chat(request, context.request_id)) as steps:
                async for chunks in steps:
                    yield chunks
        finally:
            self._active -= 1

    async def _bring_in(self) -> None:
        """There is nothing to load."""

    async def _send_out(self, asleep: bool) -> None:
        """There is nothing to free."""

    def _in_flight(self) -> dict[str, Any]:
        return {"active": self._active, "waiting": 0, **memory_of(psutil.Process())}
