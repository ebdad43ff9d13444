"""`/v1/budget`: what a key may ask and spend, and what is left of it."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from deployments.budgets.limits import Period, period_end
from serve_app.admission import admission
from serve_app.ledger_routes import OfKey, whose

routes = APIRouter()


class Budget(BaseModel):
    """Of one period, in UTC. US dollars at the catalog's prices."""

    period: Period
    usd: float = Field(description="What may be spent.")
    spent_usd: float
    ends: int = Field(description="Unix seconds.")


class Allowance(BaseModel):
    """What is limited; null is not."""

    key_id: str
    requests_per_minute: int | None = None
    requests_left: float | None = Field(None, description="Now; it fills up steadily.")
    tokens_per_minute: int | None = None
    tokens_left: float | None = Field(None, description="Now; below zero, an answer was longer than was thought.")
    concurrent: int | None = Field(None, description="Requests at once.")
    alert_at: float = Field(description="The share of a budget at which its owner is told.")
    budgets: list[Budget]


@routes.get("/v1/budget")
async def budget(request: Request, key: OfKey = None) -> Allowance:
    """What the asking key may ask and spend, and what is left of it."""
    key_id = whose(request, key) or request.state.key.id
    limits, standing = await admission().standing(key_id)
    now = time.time()
    return Allowance(
        key_id=key_id,
        requests_per_minute=limits.requests_per_minute,
        requests_left=standing.requests_left,
        tokens_per_minute=limits.tokens_per_minute,
        tokens_left=standing.tokens_left,
        concurrent=limits.concurrent,
        alert_at=limits.alert_at,
        budgets=[
            Budget(
                period=period,
                usd=usd,
                spent_usd=standing.spent.get(period, 0.0),
                ends=round(period_end(period, now)),
            )
            for period, usd in limits.budgets.items()
        ],
    )
