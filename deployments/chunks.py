"""Building and folding OpenAI chunks: the only place that knows their fields.

Variants build `ChatCompletionChunk`s here; the Gateway folds them into a `ChatCompletion` for a
client that does not stream. Pure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from openai.types import CompletionUsage
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionTokenLogprob,
)
from openai.types.chat.chat_completion import Choice as FoldedChoice
from openai.types.chat.chat_completion import ChoiceLogprobs as FoldedLogprobs
from openai.types.chat.chat_completion_chunk import (
    Choice,
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
    ChoiceLogprobs,
)
from openai.types.chat.chat_completion_message_function_tool_call import Function
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChunkBuilder:
    """Chunks of one answer: they share `id`, `created` and `model`."""

    def __init__(self, request_id: str, model: str) -> None:
        self.id = f"chatcmpl-{request_id}"
        self.model = model
        self.created = int(time.time())

    def delta(
        self,
        index: int,
        *,
        role: Literal["assistant"] | None = None,
        content: str | None = None,
        reasoning: str | None = None,
        tool_call: ChoiceDeltaToolCall | None = None,
        logprobs: Sequence[ChatCompletionTokenLogprob] | None = None,
        finish_reason: FinishReason | None = None,
    ) -> ChatCompletionChunk:
        """One change to choice `index`. `reasoning` becomes `reasoning_content`, the field that vLLM,
        DeepSeek and Open WebUI use."""
        # Only what is given is set, so that only that is sent: OpenAI's deltas hold no nulls.
        given: dict[str, Any] = {
            "role": role,
            "content": content,
            "reasoning_content": reasoning,
            "tool_calls": None if tool_call is None else [tool_call],
        }
        delta = ChoiceDelta(**{name: value for name, value in given.items() if value is not None})
        choice = Choice(
            index=index,
            delta=delta,
            finish_reason=finish_reason,
            logprobs=ChoiceLogprobs(content=list(logprobs)) if logprobs else None,
        )
        return self._chunk([choice])

    def usage(self, usage: CompletionUsage) -> ChatCompletionChunk:
        """The last chunk: token counts, no choices."""
        return self._chunk([], usage)

    def _chunk(self, choices: list[Choice], usage: CompletionUsage | None = None) -> ChatCompletionChunk:
        chunk = ChatCompletionChunk(
            id=self.id,
            choices=choices,
            created=self.created,
            model=self.model,
            object="chat.completion.chunk",
        )
        if usage is not None:
            chunk.usage = usage
        return chunk


def tool_call_delta(index: int, call_id: str, name: str, arguments: str) -> ChoiceDeltaToolCall:
    """A whole tool call in one delta."""
    return ChoiceDeltaToolCall(
        index=index,
        id=call_id,
        type="function",
        function=ChoiceDeltaToolCallFunction(name=name, arguments=arguments),
    )


def token_usage(prompt: int, completion: int, *, cached: int = 0, reasoning: int | None = None) -> CompletionUsage:
    """OpenAI's usage object; `cached` prompt tokens were not computed again."""
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        completion_tokens_details=None
        if reasoning is None
        else CompletionTokensDetails(reasoning_tokens=reasoning),
    )


class _Folding:
    """One choice while its chunks come in."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, dict[str, str]] = {}
        self.logprobs: list[ChatCompletionTokenLogprob] = []
        self.finish_reason: Any = "stop"

    def add(self, choice: Choice) -> None:
        delta = choice.delta
        if delta.content:
            self.content.append(delta.content)
        reasoning = getattr(delta, "reasoning_content", None)
        if reasoning:
            self.reasoning.append(reasoning)
        for call in delta.tool_calls or []:
            known = self.calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
            known["id"] = known["id"] or call.id or ""
            if call.function:
                known["name"] += call.function.name or ""
                known["arguments"] += call.function.arguments or ""
        if choice.logprobs and choice.logprobs.content:
            self.logprobs += choice.logprobs.content
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason

    def message(self) -> ChatCompletionMessage:
        calls = [
            ChatCompletionMessageFunctionToolCall(
                id=call["id"],
                type="function",
                function=Function(name=call["name"], arguments=call["arguments"]),
            )
            for _, call in sorted(self.calls.items())
        ]
        message = ChatCompletionMessage(
            role="assistant",
            content="".join(self.content) if self.content or not calls else None,
            tool_calls=list(calls) or None,
        )
        if self.reasoning:
            message.reasoning_content = "".join(self.reasoning)  # type: ignore[attr-defined]
        return message


def fold(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion:
    """One `ChatCompletion` from all chunks of an answer. Raises ValueError where there are none."""
    choices: dict[int, _Folding] = {}
    usage = None
    last = None
    for last in chunks:
        usage = last.usage or usage
        for choice in last.choices:
            choices.setdefault(choice.index, _Folding()).add(choice)
    if last is None:
        raise ValueError("an answer has at least one chunk")
    return ChatCompletion(
        id=last.id,
        choices=[
            FoldedChoice(
                index=index,
                message=folding.message(),
                finish_reason=folding.finish_reason,
                logprobs=FoldedLogprobs(content=folding.logprobs) if folding.logprobs else None,
            )
            for index, folding in sorted(choices.items())
        ],
        created=last.created,
        model=last.model,
        object="chat.completion",
        usage=usage,
    )
