"""The chat contract on an OpenAI-compatible endpoint somewhere else: every way in which it can fail has its code.

What comes from there is not trusted: redirects are not followed, a line has a longest length, and a chunk that is
none ends the answer.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from openai.types.chat import ChatCompletionChunk
from pydantic import ValidationError

from configs.catalog import RemoteOptions, VariantSpec
from deployments.contract import (
    MALFORMED,
    STREAM_CUT,
    TOO_LONG,
    ChatError,
    ChatRequest,
    RawPromptRequest,
    engine_gone,
    invalid,
    queue_full,
)

logger = logging.getLogger("ray.serve")

CONNECT_SECONDS = 10.0
READ_SECONDS = 600.0
"""The Router gives up earlier; this ends what nobody waits for any more."""

LONGEST_LINE = 4 * 2**20
LONGEST_REFUSAL = 64 * 2**10
_AS_GIVEN = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "n",
    "response_format",
    "tools",
    "tool_choice",
)
"""What every such endpoint knows."""


class RemoteChat:
    """One model of one endpoint."""

    def __init__(self, name: str, spec: VariantSpec) -> None:
        assert spec.remote is not None
        self._name, self._spec, self._where = name, spec, spec.remote
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False)

    async def chat(self, request: ChatRequest, request_id: str) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Stream the answer. Raises `ChatError`."""
        url = f"{self._where.base_url.rstrip('/')}/chat/completions"
        body, headers = fields_for(request, self._spec), _headers(self._where)
        finished = False
        try:
            async with self._client.stream("POST", url, json=body, headers=headers) as response:
                if response.status_code != 200:
                    raise self._refused(response.status_code, await _beginning(response))
                async for chunk in self._chunks(response, request_id):
                    finished = finished or any(choice.finish_reason for choice in chunk.choices)
                    yield [chunk]
            if not finished:
                raise self._broken(STREAM_CUT, "broke off before its end")
        except httpx.ConnectError as error:
            raise engine_gone(self._name) from error
        except httpx.HTTPError as error:
            if finished:
                return  # All of it was there.
            raise self._broken(STREAM_CUT, f"broke off ({type(error).__name__})") from error

    async def _chunks(
        self, response: httpx.Response, request_id: str
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        left = ""
        async for text in response.aiter_text():
            *lines, left = (left + text).split("\n")
            if len(left) > LONGEST_LINE:
                raise self._broken(MALFORMED, "sent a line without an end")
            for line in lines:
                data = line.strip().removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if line.startswith("data:"):
                    yield self._chunk(data, request_id)

    def _chunk(self, data: str, request_id: str) -> ChatCompletionChunk:
        try:
            event = json.loads(data)
            if isinstance(event, dict) and "error" in event:
                # (What it says may quote the question.)
                logger.warning("remote variant %s broke off with an error of its own", self._name)
                raise engine_gone(self._name)
            ours = {"id": f"chatcmpl-{request_id}", "model": self._name}
            return ChatCompletionChunk.model_validate({**event, **ours})
        except (ValueError, TypeError, ValidationError) as error:
            raise self._broken(MALFORMED, "sent what is no chunk of an answer") from error

    def _refused(self, status: int, said: bytes) -> ChatError:
        """A status in the contract's terms."""
        try:
            error = json.loads(said)["error"]
            message, code = str(error.get("message", ""))[:500], error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, code = said[:200].decode("utf-8", "replace"), None
        logger.warning("remote variant %s answered %s", self._name, status)
        if status == 429:
            return queue_full(5.0)
        if code == TOO_LONG:
            return invalid(message, param="messages", code=TOO_LONG)
        if code in ("content_filter", "content_policy_violation"):
            return self._broken("content_filter", "refused the content")
        if status in (400, 422):
            return invalid(f"{self._name}: {message}")
        return engine_gone(self._name)

    def _broken(self, code: str, what: str) -> ChatError:
        return ChatError(f"The variant {self._name!r} {what}.", status=502, code=code, retry_after=5.0)

    async def close(self) -> None:
        await self._client.aclose()


async def _beginning(response: httpx.Response) -> bytes:
    """Of a refusal, as much as an error can take."""
    said = b""
    async for part in response.aiter_bytes():
        said += part
        if len(said) > LONGEST_REFUSAL:
            break
    return said[:LONGEST_REFUSAL]


def fields_for(request: ChatRequest, spec: VariantSpec) -> dict[str, Any]:
    """The request as it goes out. Raises a 400 `ChatError` for what cannot be asked elsewhere."""
    if isinstance(request, RawPromptRequest):
        raise invalid("A remote variant takes conversations, no raw prompts.", param="model")
    assert spec.remote is not None
    given = {name: value for name in _AS_GIVEN if (value := getattr(request, name)) is not None}
    if not given.get("tools"):
        given.pop("tool_choice", None)
    limit = spec.max_output if request.token_limit is None else min(request.token_limit, spec.max_output)
    if request.logprobs:
        given |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return {
        **given,
        "model": spec.remote.model,
        "messages": request.messages,
        "max_tokens": limit,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _headers(where: RemoteOptions) -> dict[str, str]:
    key = os.environ.get(where.key_variable, "") if where.key_variable else ""
    return {"Authorization": f"Bearer {key}"} if key else {}
