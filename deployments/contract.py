"""The chat contract: what goes into a variant and what comes out, whatever its engine.

In: a `ChatRequest`. Out: an async generator of the `openai` package's `ChatCompletionChunk`s.
Nothing here knows HTTP, Ray or an engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from configs.ledger import QueryText
from configs.routing import DeviceClass, Preference
from deployments.tracing.spans import Traced

logger = logging.getLogger("ray.serve")


MOST_DIGITS = 10
"""Of a token's id."""


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    include_usage: bool = Field(False, description="Send a last chunk with token counts and no choices.")


class ChatRequest(BaseModel):
    """One chat completion as a variant sees it: OpenAI's fields, checked, with unknown ones ignored.

    Messages stay plain dictionaries, because chat templates read them as such; `content` may be a
    string, a list of parts or null in every role, as clients in the wild send it.
    """

    model_config = ConfigDict(extra="ignore")

    messages: list[dict[str, Any]] = Field(min_length=1, description="The conversation, oldest first.")
    model: str | None = Field(
        None, max_length=1000, description="A variant, an alias, or `auto` (also when absent)."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Options of a streamed answer.")
    max_tokens: int | None = Field(
        None, ge=0, description="Most tokens to generate; beyond the variant's limit it is clamped."
    )
    max_completion_tokens: int | None = Field(None, ge=0, description="The newer name of `max_tokens`.")
    n: int = Field(1, ge=1, le=16, description="How many answers to generate.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(None, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Drop tokens below this share of the likeliest.")
    repetition_penalty: float | None = Field(None, gt=0, le=3, description="1 is none.")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="0 is none.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="0 is none.")
    logit_bias: dict[str, float] | None = Field(None, description="Token id → bias, -100 to 100.")
    seed: int | None = Field(None, description="Same seed, same request, same engine: same answer.")
    stop: list[str] | None = Field(None, max_length=16, description="Strings that end the answer.")
    logprobs: bool = Field(False, description="Return the log-probability of each token.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="And of this many alternatives.")
    response_format: dict[str, Any] | None = Field(None, description="`text`, `json_object` or `json_schema`.")
    tools: list[dict[str, Any]] | None = Field(None, max_length=256, description="Functions to offer.")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="`auto`, `none`, `required` or one function."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the chat template, for example `enable_thinking`."
    )
    user: str | None = Field(None, max_length=512, description="The end user, for the ledger.")
    metadata: dict[str, Any] | None = Field(None, description="Free labels kept with the request.")

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: list[str] | None) -> list[str] | None:
        return [text for text in value if text] if value else value

    @field_validator("n", mode="before")
    @classmethod
    def _null_is_one(cls, value: Any) -> Any:
        return 1 if value is None else value

    @field_validator("stream", "logprobs", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("logit_bias")
    @classmethod
    def _bias_names_tokens(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key, bias in (value or {}).items():
            # (Python makes no number of thousands of digits.)
            if not (key.isdecimal() and len(key) <= MOST_DIGITS) or not -100 <= bias <= 100:
                raise ValueError(f"logit_bias[{key[:40]!r}] must map a token id to a number from -100 to 100")
        return value

    @field_validator("messages")
    @classmethod
    def _messages_have_roles(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for index, message in enumerate(value):
            if message.get("role") not in ("system", "developer", "user", "assistant", "tool", "function"):
                raise ValueError(f"messages[{index}].role is missing or unknown")
            if not isinstance(message.get("content"), str | list | None):
                raise ValueError(f"messages[{index}].content must be a string, a list of parts or null")
        return value

    @field_validator("tools")
    @classmethod
    def _tools_are_functions(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for index, tool in enumerate(value or []):
            function = tool.get("function")
            if tool.get("type", "function") != "function" or not isinstance(function, dict):
                raise ValueError(f"tools[{index}] must be of type function and hold a function")
            if not isinstance(function.get("name"), str) or not function["name"]:
                raise ValueError(f"tools[{index}].function.name is missing")
            if not isinstance(function.get("parameters", {}), dict | None):
                raise ValueError(f"tools[{index}].function.parameters must be a JSON schema object")
        return value

    @model_validator(mode="after")
    def _tool_choice_is_offered(self) -> ChatRequest:
        choice = self.tool_choice
        if isinstance(choice, dict):
            function = choice.get("function")
            name = function.get("name") if isinstance(function, dict) else None
            if name not in [tool["function"]["name"] for tool in self.tools or []]:
                raise ValueError(f"tool_choice names {name!r}, which tools does not declare")
        elif choice not in (None, "auto", "none", "required"):
            raise ValueError("tool_choice must be auto, none, required or a function")
        elif choice == "required" and not self.tools:
            raise ValueError("tool_choice is required but tools is empty")
        return self

    @property
    def token_limit(self) -> int | None:
        """Most completion tokens asked for, under either of its names; None where neither is given."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given


class ContinuedRequest(ChatRequest):
    """A conversation whose answer has begun as `begun`, with another variant: it goes on from there."""

    begun: str


class CompletionRequest(BaseModel):
    """OpenAI's legacy `/v1/completions`: a raw prompt, no chat template."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | list[str] | list[int] | list[list[int]] = Field(description="Text, token ids, or a list.")
    model: str | None = Field(None, max_length=1000, description="A variant, an alias, or `auto`.")
    max_tokens: int | None = Field(16, ge=0, description="OpenAI's default is 16.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int = Field(1, ge=1, le=16)
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = Field(False, description="Repeat the prompt before the completion.")
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    user: str | None = Field(None, max_length=512)

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts one by one, each a text or a list of token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    def as_chat(self, prompt: str | list[int]) -> RawPromptRequest:
        """One of the prompts, with the sampling fields, as what a variant takes."""
        given = self.model_dump(exclude={"prompt", "logprobs", "echo"}, exclude_none=True, exclude_unset=True)
        return RawPromptRequest.model_validate(
            {
                "max_tokens": self.max_tokens,
                **given,
                "prompt": prompt,
                "messages": [{"role": "user", "content": prompt if isinstance(prompt, str) else None}],
                "logprobs": self.logprobs is not None,
                "top_logprobs": self.logprobs,
            }
        )


class RawPromptRequest(ChatRequest):
    """A completion of `prompt` (text or token ids) as it stands: no chat template is applied."""

    prompt: str | list[int]


@dataclass(frozen=True)
class Adapter:
    """Weights that a variant is asked with beside its own. `digest`: which of that name."""

    model: str
    """The name by which it is asked: `ft:<base>:<name>`."""
    digest: str
    why: Literal["named", "rule", "share", "shadow"] = "named"
    """What has it asked. `share`: of its base's conversations this is one that it answers; the request itself does
    not say so."""
    trial: bool = False
    """Whether it may be asked though it is not promoted: to see that it can be."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.model.rpartition(":")[2]

    @property
    def key(self) -> str:
        """Of these very weights: what they have computed or said is kept under it, and nothing else."""
        return f"{self.model}@{self.digest}"


OWN = ":own"
"""In a group's place: a key that shares no answers. (No group is called so.)"""


@dataclass(frozen=True)
class RequestContext:
    """Who asks and how, beside what is asked: made by the Gateway, handed from room to room."""

    request_id: str
    key_id: str = ""
    group: str | None = None
    """Keys of one group may be served from each other's answers; `OWN`: from nobody's but its own."""
    user: str | None = None
    session: str | None = None
    device: DeviceClass = "server"
    cache: Literal["use", "refresh", "bypass", "check"] = "use"
    """`refresh` asks anew and stores; `bypass` neither reads nor stores; `check` asks anew and compares with what
    the cache would have said."""
    preference: Preference | None = None
    """What a right answer is worth against cost and time; None: as the owner has set it."""
    max_cost_usd: float | None = None
    """The most that the answer is likely to cost."""
    variants: tuple[str, ...] | None = None
    """Who may answer, by the asking key; None: all."""
    remote: bool = True
    """Whether it may leave the group's own machines, where a remote variant is served."""
    query_text: QueryText | None = None
    """What the Ledger keeps of the question; None: as the profile says."""
    budget_used: float | None = None
    """The largest share (0 to 1 and beyond) that its key has used of a budget; None: it has none."""
    begin_within: float | None = None
    """Seconds within which an answer must have begun: for the Router, after it was received, by its client's wish;
    for a variant, from when it is asked. None: no such wish."""
    thrift: bool = False
    """Whether a rule about its key's budget is in force: what thrift was given is for nobody else."""
    adapters: tuple[Adapter, ...] = ()
    """For the Router: those that answer this request instead of their bases. What they say is kept apart."""
    drawn: bool = False
    """Whether shares were drawn for it: it names no variant, and no rule an adapter."""
    adapter: Adapter | None = None
    """For a variant: what it is asked with; None: it is asked as it is."""
    received: float = field(default_factory=time.time)
    """Unix time, seconds."""
    trace: Traced | None = None
    """Where its spans belong; None: it has none."""

    def numbered(self, n: int) -> RequestContext:
        """The context of one of several requests that came in one; the first keeps the id."""
        return self if n == 0 else replace(self, request_id=f"{self.request_id}-{n}")


ErrorKind = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
]


class ChatError(Exception):
    """Anything that ends a request without an answer, in OpenAI's terms.

    Attributes: `status` (HTTP), `kind` (OpenAI's `type`), `code`, `param`, and `retry_after` in
    seconds where trying again helps. Survives pickling, because it crosses deployments.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        kind: ErrorKind = "server_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind: ErrorKind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.message, self.status, self.kind, self.code, self.param, self.retry_after))

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "code": self.code, "param": self.param}}


def _rebuild(
    message: str,
    status: int,
    kind: ErrorKind,
    code: str | None,
    param: str | None,
    retry_after: float | None,
) -> ChatError:
    return ChatError(message, status=status, kind=kind, code=code, param=param, retry_after=retry_after)


AUTO = "auto"
"""The model's name where the Router decides; also where none is named."""

AWAY = "node_away"
NOT_READY = "variant_not_ready"
ADAPTER_BROKEN = "adapter_unavailable"
"""Codes of answers that another variant may give instead."""

TOO_LONG = "context_length_exceeded"
"""OpenAI's code for a conversation beyond the context."""

QUEUE_FULL = "queue_full"
ENGINE_GONE = "engine_unavailable"
MALFORMED = "malformed_chunk"
STREAM_CUT = "stream_cut"
"""Codes by which a failed answer's cause is known."""


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ChatError:
    """A 400: the request itself is wrong."""
    return ChatError(message, status=400, kind="invalid_request_error", code=code, param=param)


def context_too_long(n_prompt: int, limit: int) -> ChatError:
    """OpenAI's `context_length_exceeded`: the prompt alone (tokens) does not fit the variant's context."""
    return invalid(
        f"This model's maximum context length is {limit} tokens, and the messages hold {n_prompt}. "
        "Shorten them, or name a variant with a longer context (see /v1/models).",
        param="messages",
        code=TOO_LONG,
    )


def queue_full(retry_after: float) -> ChatError:
    """A 429: the variant's queue is at its limit; `retry_after` in seconds."""
    return ChatError(
        "All slots of this variant are busy and its queue is full. Try again shortly.",
        status=429,
        kind="rate_limit_error",
        code=QUEUE_FULL,
        retry_after=retry_after,
    )


def engine_gone(variant: str) -> ChatError:
    """A 503: the variant's engine or replica died or is not there yet."""
    return ChatError(
        f"The variant {variant!r} is not available right now. It restarts by itself; try again.",
        status=503,
        code=ENGINE_GONE,
        retry_after=5.0,
    )


def not_allowed(message: str) -> ChatError:
    """A 403: the key is valid, and not for this."""
    return ChatError(message, status=403, kind="permission_error", code="not_allowed")


@contextmanager
def or_gone(part: str, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    """What a part's own store raises while that is away, as a 503 of this part."""
    try:
        yield
    except failures as error:
        logger.warning("the store of the %s did not answer: %s", part, error)
        raise engine_gone(part) from error


def node_away(variant: str, node: str) -> ChatError:
    """A 503: the machine that the variant runs on is asleep or has left."""
    return ChatError(
        f"The variant {variant!r} runs on the {node}, which is away. It is offered again when that is back.",
        status=503,
        code=AWAY,
        retry_after=30.0,
    )


def not_ready(variant: str, reason: str) -> ChatError:
    """A 503: the variant is not in memory and did not get there in time."""
    return ChatError(
        f"The variant {variant!r} is not ready: {reason}.",
        status=503,
        code=NOT_READY,
        retry_after=10.0,
    )


def adapter_broken(model: str, reason: str) -> ChatError:
    """A 503: these weights cannot be asked."""
    return ChatError(f"The adapter {model!r} cannot be used: {reason}.", status=503, code=ADAPTER_BROKEN)


def no_such_model(message: str) -> ChatError:
    """OpenAI's 404 for a model's name that nothing answers to."""
    return ChatError(message, status=404, kind="not_found_error", code="model_not_found", param="model")


class Variant(Protocol):
    """What every engine's deployment offers to the Router."""

    def chat(self, request: ChatRequest, context: RequestContext) -> AsyncIterator[list[ChatCompletionChunk]]:
        """Stream one answer, in lists of the chunks that are there at once (a message between processes
        costs more than a chunk); the last chunk carries `usage` and no choices. Raises `ChatError`."""
        ...
