"""Going on with an answer whose Router has died: its text is there, and the rest is asked for. Pure asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from openai.types.chat import ChatCompletionChunk

from deployments.contract import ChatRequest, ContinuedRequest, engine_gone
from deployments.router.decision import Item, Routed


def going_on(request: ChatRequest, said: list[Item]) -> ChatRequest:
    """The request for the rest of an answer. Raises `ChatError` for one that cannot be gone on with: calls of
    tools, thoughts, a form, several answers."""
    chunks = [item for item in said if isinstance(item, ChatCompletionChunk)]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    text = "".join(delta.content or "" for delta in deltas)
    if not text:
        return request
    more = any(delta.tool_calls or getattr(delta, "reasoning_content", None) for delta in deltas)
    structured = (request.response_format or {"type": "text"}).get("type") != "text"
    if more or structured or request.n > 1:
        raise engine_gone("router")
    fields = request.model_dump(exclude_unset=True)
    return ContinuedRequest.model_validate({**fields, "begun": text})


async def the_rest(said: list[Item], steps: AsyncGenerator[list[Item], None]) -> AsyncGenerator[list[Item], None]:
    """What is still to be said: no second decision, no second beginning."""
    begun = any(isinstance(item, ChatCompletionChunk) for item in said)
    async with aclosing(steps):
        async for items in steps:
            left = [item for item in items if not (_begins(item) if begun else isinstance(item, Routed))]
            if left:
                yield left


def _begins(item: Item) -> bool:
    """Whether it says only who speaks."""
    if isinstance(item, Routed):
        return True
    choices = item.choices
    says = any(choice.delta.content or choice.delta.tool_calls or choice.finish_reason for choice in choices)
    return bool(choices) and not says and any(choice.delta.role for choice in choices)
