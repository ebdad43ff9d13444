"""`/v1/drain`: nothing new is taken on, and what is under way may end. For keys with the scope `admin`."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from serve_app.admission import admission

routes = APIRouter()


class Drain(BaseModel):
    model_config = ConfigDict(extra="forbid")

    on: bool = Field(True, description="False: take on requests again.")
    seconds: float = Field(30, ge=0, le=300, description="How long to wait for what is under way.")


class Drained(BaseModel):
    draining: bool
    under_way: int = Field(description="Requests that have not ended yet.")


@routes.post("/v1/drain")
async def drain(body: Drain) -> Drained:
    """Refuse new questions (503, with Retry-After; `/v1/health` says that it is not ready), and wait until those
    that are under way have ended, or the time is over. `groupqwen down` does this first."""
    under_way = await admission().drain(on=body.on, seconds=body.seconds)
    return Drained(draining=body.on, under_way=under_way)
