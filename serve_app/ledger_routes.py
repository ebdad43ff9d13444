"""`/v1/usage`, `/v1/stats/daily`, `/v1/requests`, `/v1/audit`, `/v1/examples`: what the Ledger says. A key sees
its own; one with the scope `admin` sees all."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from deployments.contract import ChatError, invalid
from serve_app.keys import ApiKey
from serve_app.parts import asked

routes = APIRouter()

DAY_SECONDS = 86_400
MOST_DAYS = 400

EXAMPLES_AT_ONCE = 50

Days = Annotated[int, Query(ge=1, le=MOST_DAYS, description="So many days back, the present one included (UTC).")]
OfKey = Annotated[
    str | None, Query(pattern=r"^key_[0-9a-f]{12}$", description="Of one key; for keys with the scope admin.")
]


class Usage(BaseModel):
    """What was asked and spent. Times in milliseconds; the cache's own requests count in tokens and cost only."""

    name: str = Field(description="A key's id, a variant, or a day (UTC).")
    requests: int
    failed: int
    hits: int = Field(description="Answered by the cache.")
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: float = Field(description="At the catalog's prices.")
    energy_wh: float = Field(description="What the machines drew for it, as far as that is known.")
    electricity_usd: float
    saved_usd: float = Field(description="What the largest variant would have cost, less what was spent.")
    ttft_ms_p50: float | None = None
    latency_ms_p95: float | None = None


class UsageReport(BaseModel):
    by: Literal["key", "variant", "day"]
    since: int = Field(description="Unix seconds.")
    rows: list[Usage]


class Opinion(BaseModel):
    at: str
    rating: str
    correction: str | None = None
    comment: str | None = None


class Recorded(BaseModel):
    """One request: what was asked, who answered and why, what it took, and what was said of it."""

    request_id: str
    at: float = Field(description="Unix seconds.")
    key_id: str
    user: str | None = None
    session: str | None = None
    query: str = Field(description="The first 500 characters.")
    requested: str
    device: str
    variant: str | None = None
    trace: dict[str, Any] = Field(description="The route, as `metadata.route` of its answer.")
    cache: str
    cache_distance: float | None = None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    ttft_ms: float | None = None
    latency_ms: float
    cost_usd: float
    energy_wh: float | None = Field(None, description="What the machines drew for it; null: nobody knows.")
    electricity_usd: float | None = None
    saved_usd: float | None = None
    confidence: float | None = Field(None, description="P(right) of who answered, where it is known.")
    escalations: int | None = Field(None, description="Variants that were unsure and handed over.")
    finish_reason: str | None = None
    status: int
    error: str | None = None
    feedback: list[Opinion]


class Act(BaseModel):
    """Something that touches others."""

    at: float
    key_id: str
    act: str
    status: int


class Acts(BaseModel):
    acts: list[Act]


class JsonLines(StreamingResponse):
    media_type = "application/jsonl"


@routes.get("/v1/usage")
async def usage(
    request: Request, by: Literal["key", "variant", "day"] = "variant", days: Days = 30, key: OfKey = None
) -> UsageReport:
    """Requests, tokens, cost and what was saved, by key, variant or day."""
    now = time.time()
    since = (int(now) // DAY_SECONDS - days + 1) * DAY_SECONDS
    rows = await asked("ledger", "usage", by, since, now + 1, whose(request, key))
    return UsageReport.model_validate({"by": by, "since": since, "rows": rows})


@routes.get("/v1/stats/daily")
async def daily(request: Request, days: Days = 14, key: OfKey = None) -> UsageReport:
    """The same, day by day."""
    return await usage(request, "day", days, key)


@routes.get("/v1/requests/{request_id}")
async def one_request(request: Request, request_id: Annotated[str, Path(max_length=128)]) -> Recorded:
    """All that is known of one request; it is there a moment after its answer's end."""
    row = await asked("ledger", "request", request_id, whose(request, None))
    if row is None:
        raise ChatError(
            f"There is no request {request_id!r} of yours in the Ledger (it takes a second to get there).",
            status=404,
            kind="not_found_error",
            code="no_such_request",
        )
    return Recorded.model_validate(row)


@routes.get("/v1/audit")
async def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Acts:
    """The last acts that touched others: keys, memory, everyone's cache."""
    return Acts.model_validate({"acts": await asked("ledger", "acts", limit)})


@routes.get("/v1/examples", response_class=JsonLines)
async def examples() -> JsonLines:
    """Answers that were rated or corrected, with the conversations that led to them: one a line, with what was
    said of each last. `groupqwen data import --ledger` makes training data of them."""
    return JsonLines(_lines(await asked("ledger", "examples", "", EXAMPLES_AT_ONCE)))


async def _lines(rows: list[dict[str, Any]]) -> AsyncIterator[str]:
    while rows:
        for row in rows:
            yield json.dumps(row) + "\n"
        rows = await asked("ledger", "examples", rows[-1]["request_id"], EXAMPLES_AT_ONCE)


def whose(request: Request, wanted: str | None) -> str | None:
    """The key whose rows are meant; None: all."""
    key: ApiKey = request.state.key
    if "admin" in key.scopes:
        return wanted
    if wanted not in (None, key.id):
        raise invalid("Another key's usage is for keys with the scope admin.", param="key")
    return key.id
