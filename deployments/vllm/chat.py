"""The chat contract in vLLM's words: requests out, events in. Pure: it works on dictionaries and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from openai.types.chat import ChatCompletionChunk

from configs.catalog import VariantSpec
from deployments.chunks import ChunkBuilder
from deployments.contract import TOO_LONG, ChatError, ChatRequest, ContinuedRequest, RawPromptRequest, invalid

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
_AS_GIVEN = ("frequency_penalty", "logit_bias", "seed", "stop", "n")
_OF_CHAT = ("response_format", "tools", "tool_choice")
_RESERVED = frozenset({"chat_template", "tokenize", "messages", "tools", "documents", "conversation"})
"""Arguments of the template's caller, which a request may not set."""

_EVENT = "data: "


def chat_fields(request: ChatRequest, spec: VariantSpec, request_id: str) -> dict[str, Any]:
    """The fields of vLLM's `ChatCompletionRequest`."""
    fields = _common(request, spec, request_id)
    fields |= {name: value for name in _OF_CHAT if (value := getattr(request, name)) is not None}
    fields |= {
        "messages": [_message(message, index, spec) for index, message in enumerate(request.messages)],
        "chat_template_kwargs": {
            **spec.template_kwargs,
            **{name: value for name, value in request.chat_template_kwargs.items() if name not in _RESERVED},
        },
    }
    if isinstance(request, ContinuedRequest):
        fields["messages"].append({"role": "assistant", "content": request.begun})
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    if request.logprobs:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if spec.thinking_budget is not None:
        fields["thinking_token_budget"] = spec.thinking_budget
    return fields


def completion_fields(request: RawPromptRequest, spec: VariantSpec, request_id: str) -> dict[str, Any]:
    """The fields of vLLM's `CompletionRequest`: a prompt as it stands."""
    fields = _common(request, spec, request_id)
    fields["prompt"] = request.prompt
    if request.logprobs:
        fields["logprobs"] = request.top_logprobs or 0
    return fields


def _common(request: ChatRequest, spec: VariantSpec, request_id: str) -> dict[str, Any]:
    defaults = spec.sampling.model_dump()
    fields: dict[str, Any] = {
        name: defaults[name] if (value := getattr(request, name)) is None else value for name in _SAMPLING
    }
    fields |= {name: value for name in _AS_GIVEN if (value := getattr(request, name)) is not None}
    limit = spec.max_output if request.token_limit is None else min(request.token_limit, spec.max_output)
    return fields | {
        "request_id": request_id,
        "max_tokens": limit,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _message(message: Mapping[str, Any], index: int, spec: VariantSpec) -> dict[str, Any]:
    """Roles and contents that every template knows. Raises a 400 `ChatError` for what the variant cannot read."""
    plain = {key: value for key, value in message.items() if value is not None}
    plain["role"] = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
    if isinstance(plain.get("content"), list):
        plain["content"] = [_part(part, index, spec) for part in plain["content"]]
    return {"content": "", **plain}


def _part(part: Any, index: int, spec: VariantSpec) -> dict[str, Any]:
    """A part with what its type says and nothing else. Where vLLM finds a `uuid`, it reads (and fetches) what
    stands under `image_url` or `video_url`, whatever the type is, and may take another request's image for it."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind in ("text", "refusal"):
        return {"type": kind, kind: part.get(kind)}
    if kind != "image_url" or "vision" not in spec.capabilities:
        raise invalid(
            f"messages[{index}] holds a part of type {kind!r}, which this variant does not read.",
            param="messages",
            code="unsupported_modality",
        )
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    if not isinstance(url, str) or not url.startswith("data:image/"):
        # Fetching what a request names would let it reach whatever this machine can reach.
        raise invalid(
            f"messages[{index}]: images are taken as data URLs (`data:image/png;base64,…`) only.",
            param="messages",
        )
    return {"type": "image_url", "image_url": {"url": url}}


def chunks_of(event: str, builder: ChunkBuilder) -> list[ChatCompletionChunk]:
    """The chunks of one server-sent event of vLLM's; none of the last one. Raises `ChatError` for an error."""
    data = event.strip().removeprefix(_EVENT)
    if not data or data == "[DONE]":
        return []
    body = json.loads(data)
    if "error" in body:
        raise error_of(body["error"])
    choices = [_choice(choice) for choice in body.get("choices") or []]
    usage = body.get("usage")
    if not choices and usage is None:
        return []
    return [
        ChatCompletionChunk.model_validate(
            {
                "id": builder.id,
                "created": builder.created,
                "model": builder.model,
                "object": "chat.completion.chunk",
                "choices": choices,
                **({} if usage is None else {"usage": usage}),
            }
        )
    ]


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice with the fields that OpenAI knows, and those of its delta that are set."""
    if "text" in choice:
        delta = {"content": choice["text"]}
        logprobs = _chat_logprobs(choice["logprobs"]) if choice.get("logprobs") else None
    else:
        given = choice.get("delta") or {}
        delta = {name: given[name] for name in ("role", "content", "tool_calls") if given.get(name) is not None}
        thought = given.get("reasoning") or given.get("reasoning_content")
        if thought:
            delta["reasoning_content"] = thought
        logprobs = choice.get("logprobs")
    reason = choice.get("finish_reason")
    return {
        "index": choice["index"],
        "delta": delta,
        "logprobs": logprobs,
        # vLLM ends with `abort` what was stopped from outside.
        "finish_reason": "stop" if reason == "abort" else reason,
    }


def _chat_logprobs(logprobs: Mapping[str, Any]) -> dict[str, Any]:
    """Log-probabilities of the legacy completions, in the chat's form."""
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return {
        "content": [
            {
                "token": token,
                "logprob": logprob,
                "top_logprobs": [{"token": other, "logprob": value} for other, value in (top or {}).items()],
            }
            for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
        ]
    }


def error_of(error: Mapping[str, Any]) -> ChatError:
    """vLLM's error object in the contract's terms."""
    message, status = str(error.get("message")), error.get("code")
    if status in (400, 404, 422):
        too_long = "context length" in message or "max_model_len" in message
        return invalid(
            message,
            param="messages" if too_long else error.get("param"),
            code=TOO_LONG if too_long else None,
        )
    return ChatError(message, status=status if isinstance(status, int) and 400 <= status < 600 else 500)
