"""Request and response types of the API that are not OpenAI's own, for checking and for `/docs`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class ErrorBody(BaseModel):
    """What went wrong, in OpenAI's terms."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorResponse(BaseModel):
    """Every error looks like this; `x-request-id` finds it in the logs and the ledger."""

    error: ErrorBody


class Metadata(BaseModel):
    """What an answer says about itself."""

    model_config = ConfigDict(extra="allow")

    request_id: str
    latency_ms: float
    variant: str | None = Field(None, description="Who answered.")
    cache: str | None = Field(
        None, description="exact, semantic, coalesced (the same was being answered), miss or bypass."
    )
    cache_hit: bool | None = None
    cache_distance: float | None = Field(None, description="Cosine distance to the nearest entry.")
    route: dict[str, Any] | None = Field(None, description="The whole decision.")


class RouteCandidate(BaseModel):
    """A variant that was considered."""

    variant: str
    passed_over: str | None = Field(None, description="Why it does not answer; null for the one that does.")
    correct: float | None = Field(None, description="P(right), where it was weighed.")
    cost: float | None = Field(None, description="In answers of qwen3-8b.")
    seconds: float | None = Field(None, description="Until the whole answer would be there.")


class Route(BaseModel):
    """Who would answer, and why."""

    variant: str
    reason: str
    requested: str = Field(description="The `model` that was asked for.")
    device: str
    complexity: float | None = None
    level: str | None = None
    task: str | None = None
    domain: str | None = Field(None, description="By the owner's labels, where some were learned.")
    candidates: list[RouteCandidate]
    parameters: dict[str, Any] = Field(description="Sampling defaults of the variant.")
    preference: str | None = Field(None, description="economy, balanced or best.")
    think: bool | None = Field(None, description="Whether it would be asked to think first; null: it cannot.")
    escalation_threshold: float | None = Field(
        None, description="P(right) below which a larger variant would take over; null: nobody would."
    )
    decided_ms: float = Field(description="How long deciding took, milliseconds.")


class ChatAnswer(BaseModel):
    """OpenAI's `ChatCompletion`, with `metadata`."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None
    metadata: Metadata


class TextAnswer(BaseModel):
    """OpenAI's legacy `Completion`."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]


def also_streamed(answer: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """An answer in the document: as JSON, or as events where `stream` asks for them."""
    return {200: {"model": answer, "content": {"text/event-stream": {}}}}


class EmbeddingRequest(BaseModel):
    """OpenAI's embeddings request."""

    model_config = ConfigDict(extra="ignore")

    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="One text or several. Token ids are refused: they belong to another model's tokenizer."
    )
    model: str | None = Field(None, description="The embedder of this profile, or a name that means it.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, gt=0, description="Only the model's own number.")
    user: str | None = None


class EmbeddingItem(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 of little-endian float32.")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class Model(BaseModel):
    """OpenAI's `Model`, with what GroupQwen knows of it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    engine: str | None = None
    status: dict[str, Any] | None = Field(None, description="Live: state, requests, memory (MiB).")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Pin(BaseModel):
    """Whether a variant is kept once it is in memory."""

    pinned: bool = True


class Residence(BaseModel):
    """How a variant that is swapped stands with the node's memory."""

    id: str
    state: str = Field(description="absent, loading, awake, draining or asleep.")
    pinned: bool
    declared_memory_mb: int = Field(description="What the plan holds for it, MiB.")
    problem: str | None = Field(None, description="Why it could not be loaded the last time.")


class Received(BaseModel):
    """Feedback is kept in any case."""

    known: bool = Field(
        description="Whether it is on a recent request of this key that the Router which was asked remembers: "
        "then routing learns from it at once, and a bad answer leaves the cache. It is counted in any case."
    )


class Rollout(BaseModel):
    """The canary of a rollout, while one is tried."""

    variants: list[str] = Field(description="Variants of which a new version is tried.")
    share: float = Field(description="Of their requests, how many it is given.")
    answered: int
    failed: int = Field(description="Requests that it failed; the old version answered them where it still could.")


class Promise(BaseModel):
    """What checks allow so far. Bounds hold with 95 % confidence, for questions like those checked."""

    checks: int = Field(description="Requests of which it is known what a fresh answer said.")
    threshold: float | None = Field(None, description="The least P(same answer) that serves; unset: none.")
    per_hit: float = Field(description="The bound on wrong answers per hit.")
    per_request: float = Field(description="And per request.")
    share: float = Field(description="Of the requests, so many would be served.")
    labels: int = Field(description="Checks above the threshold.")
    wrong: int = Field(description="Of these, so many found another answer.")


class Verifier(BaseModel):
    """What is known of the verifier's yeses: how many were checked, how many were wrong, and the bound (95 %) on
    wrong answers per request, if they served."""

    labels: int
    wrong: int
    per_request: float


class CacheStats(BaseModel):
    """Since the Router's replica started, except `entries`, which are those in Redis now."""

    outcomes: dict[str, int]
    hit_rate: float | None = Field(None, description="Hits ÷ (hits + misses); bypassed requests do not count.")
    completion_tokens_saved: int
    seconds_saved: float = Field(description="What the kept answers took when they were made.")
    cost_saved_usd: float = Field(description="The same in US dollars, at the catalog's prices.")
    entries: int | None = Field(None, description="Unset while Redis is away.")
    size_mb: float | None = Field(None, description="What they take, roughly.")
    max_size_mb: int
    embedded: int = Field(description="Questions embedded: one for each request that reaches the semantic lookup.")
    mode: str = Field(description="exact, fixed, calibrated or certified.")
    distance_threshold: float = Field(description="Of the mode fixed: cosine.")
    wrong_per_request: float = Field(description="The owner's budget for wrong answers from similar questions.")
    ttl_seconds: int
    partitions: dict[str, Promise] = Field(
        description="By kind of question in your key's scope, and of all: what is served now, what is promised."
    )
    verifier: dict[str, Verifier] = Field(
        description="By kind of question in your key's scope, where a variant is asked about doubtful ones."
    )


class Cleared(BaseModel):
    deleted: int


VARIANT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$"
"""Or an adapter's."""


class CacheEntry(BaseModel):
    """A kept answer."""

    id: str
    query: str
    answer: str
    variant: str
    group: str = Field(description="The entry whose answer was the first to say this.")
    distance: float | None = Field(None, description="Cosine distance to the query that was searched for.")
    knowledge: str | None = Field(None, description="What it rests on: `metadata.knowledge` of its request.")
    age_seconds: int
    expires_in_seconds: int | None = Field(None, description="Unset for a pinned one.")
    pinned: bool = False


class CacheEntries(BaseModel):
    entries: list[CacheEntry]


EntryId = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class EntryIds(BaseModel):
    """Which of your key's entries are to stay."""

    model_config = ConfigDict(extra="forbid")

    ids: list[EntryId] = Field(min_length=1, max_length=1000)


class EntriesPinned(BaseModel):
    pinned: int


class Forget(BaseModel):
    """Which of your key's entries to forget: these ids, or those for which all that is said of the rest holds."""

    model_config = ConfigDict(extra="forbid")

    ids: list[EntryId] = Field([], max_length=1000)
    query: str | None = Field(None, min_length=1, max_length=2000)
    distance: float = Field(0.05, ge=0, le=2, description="How far from the query, cosine.")
    variant: str | None = Field(None, pattern=VARIANT_NAME)
    knowledge: str | None = Field(
        None, min_length=1, max_length=200, description="What they rest on: `metadata.knowledge`."
    )
    dry_run: bool = Field(False, description="Only say which they are.")


class Forgotten(BaseModel):
    deleted: int
    entries: list[CacheEntry] = Field(description="Those that were searched for; ids are taken as they come.")


class Health(BaseModel):
    """`ready`: a question would be answered. `parts` only for keys with the scope admin."""

    status: Literal["ok", "degraded", "draining", "down"]
    live: bool
    ready: bool
    parts: dict[str, Any] | None = None


def base64_floats(vector: Sequence[float]) -> str:
    """A vector as the `openai` SDK asks for it: base64 of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
