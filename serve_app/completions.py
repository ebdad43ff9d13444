"""OpenAI's legacy text completions, from the same chunks as chat. Pure."""

from __future__ import annotations

from typing import Any

from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob

from deployments.contract import CompletionRequest


def text_chunk(chunk: ChatCompletionChunk, offset: int) -> dict[str, Any] | None:
    """A chat chunk as a `text_completion` event; choices are numbered from `offset`. None: nothing to say."""
    choices = []
    for choice in chunk.choices:
        if not choice.delta.content and choice.finish_reason is None and choice.logprobs is None:
            continue
        content = choice.logprobs.content if choice.logprobs else None
        choices.append(
            {
                "index": offset + choice.index,
                "text": choice.delta.content or "",
                "finish_reason": choice.finish_reason,
                "logprobs": _logprobs(content) if content else None,
            }
        )
    if not choices and chunk.usage is None:
        return None
    event: dict[str, Any] = {
        "id": chunk.id.replace("chatcmpl-", "cmpl-", 1),
        "object": "text_completion",
        "created": chunk.created,
        "model": chunk.model,
        "choices": choices,
    }
    if chunk.usage is not None:
        event["usage"] = chunk.usage.model_dump(mode="json", exclude_none=True)
    return event


def text_body(request: CompletionRequest, answers: list[list[ChatCompletionChunk]]) -> dict[str, Any]:
    """One `text_completion` from the chunks of each prompt's answer."""
    choices: list[dict[str, Any]] = []
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for number, (prompt, chunks) in enumerate(zip(request.prompts, answers, strict=True)):
        folded: dict[int, dict[str, Any]] = {}
        for chunk in chunks:
            for choice in (text_chunk(chunk, 0) or {"choices": []})["choices"]:
                into = folded.setdefault(
                    choice["index"],
                    {"index": 0, "text": "", "finish_reason": None, "logprobs": None},
                )
                into["text"] += choice["text"]
                into["finish_reason"] = choice["finish_reason"] or into["finish_reason"]
                into["logprobs"] = _joined(into["logprobs"], choice["logprobs"])
            if chunk.usage is not None:
                for key in usage:
                    usage[key] += getattr(chunk.usage, key)
        for index, choice in sorted(folded.items()):
            choice["index"] = number * request.n + index
            if request.echo and isinstance(prompt, str):
                # (Half of a surrogate pair can be sent as JSON, and cannot be answered.)
                choice["text"] = prompt.encode("utf-8", "replace").decode() + choice["text"]
            choices.append(choice)
    first = answers[0][0]
    return {
        "id": first.id.replace("chatcmpl-", "cmpl-", 1),
        "object": "text_completion",
        "created": first.created,
        "model": first.model,
        "choices": choices,
        "usage": usage,
    }


def _logprobs(content: list[ChatCompletionTokenLogprob]) -> dict[str, Any]:
    return {
        "tokens": [entry.token for entry in content],
        "token_logprobs": [entry.logprob for entry in content],
        "top_logprobs": [{top.token: top.logprob for top in entry.top_logprobs} for entry in content],
        "text_offset": [],
    }


def _joined(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return before or after
    return {key: before[key] + after[key] for key in before}
