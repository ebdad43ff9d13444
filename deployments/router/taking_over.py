"""Going on with an answer whose Router has died: its text is there, and the rest is asked for. Pure asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice

from deployments.contract import ChatRequest, ContinuedRequest, engine_gone
from deployments.router.decision import Item, Routed

Ask = Callable[[], AsyncGenerator[list[Item], None]]


def is_over(said: list[Item]) -> bool:
    """Whether an answer was said to its end, though nobody has said that it was the end."""
    ended = {choice.index for choice in _choices(said) if choice.finish_reason}
    return bool(ended) and ended == {choice.index for choice in _choices(said)}


def going_on(request: ChatRequest, said: list[Item]) -> ChatRequest:
    """The request for the rest of an answer. Raises `ChatError` for one that has begun and cannot be gone on with:
    calls of tools, thoughts, a form, several answers."""
    deltas = [choice.delta for choice in _choices(said)]
    text = "".join(delta.content or "" for delta in deltas)
    more = any(delta.tool_calls or getattr(delta, "reasoning_content", None) for delta in deltas)
    structured = (request.response_format or {"type": "text"}).get("type") != "text"
    if more or (text and (structured or request.n > 1)):
        raise engine_gone("router")
    if not text:
        return request
    fields = request.model_dump(exclude_unset=True, exclude={"max_tokens", "max_completion_tokens"})
    if request.token_limit is not None:
        # (A chunk is a token, or a few where they came at once.)
        pieces = sum(1 for delta in deltas if delta.content)
        fields["max_tokens"] = max(1, request.token_limit - pieces)
    return ContinuedRequest.model_validate({**fields, "begun": text})


def _choices(said: list[Item]) -> list[Choice]:
    return [choice for item in said if isinstance(item, ChatCompletionChunk) for choice in item.choices]


async def the_rest(said: list[Item], ask: Ask) -> AsyncGenerator[list[Item], None]:
    """What is still to be said, as `ask` gets it: no second decision, no second beginning."""
    if is_over(said):
        return
    begun = any(isinstance(item, ChatCompletionChunk) for item in said)
    async with aclosing(ask()) as steps:
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
