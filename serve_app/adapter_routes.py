"""`/v1/adapters`: what was trained, what of it serves, and how it does. For keys with the scope `admin` (the
border sees to that)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from configs.adapters import AdapterManifest, Export, Gate, Promotion, read_adapters
from configs.home import home
from configs.training import ADAPTER_NAME, Recipe
from deployments.adapters import promotion
from deployments.adapters.verdicts import better, sides_of
from deployments.contract import ENGINE_GONE, ChatError
from deployments.ledger.opinions import audit_row
from serve_app.admission import admission
from serve_app.errors import CONFLICT, DISK_FULL
from serve_app.parts import asked

routes = APIRouter(prefix="/v1/adapters")

Name = Annotated[str, Path(pattern=ADAPTER_NAME)]


class Promote(BaseModel):
    """How an adapter is to serve. It can be asked by its name in any case."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Of the conversations that its base would answer, those that it answers instead, where nobody "
        "has named a variant.",
    )
    shadow: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Of its base's answers, those that it is asked for too, unheard, when nobody waits.",
    )
    force: bool = Field(False, description="Although its gate refuses it: this is written down.")


class Shown(BaseModel):
    """An adapter."""

    name: str
    model: str = Field(description="The name by which it is asked while it is promoted.")
    base: str
    created: float = Field(description="Unix seconds.")
    job: str | None
    data_hash: str
    recipe: Recipe
    seed: int
    parents: list[str]
    metrics: dict[str, float]
    exports: dict[str, Export]
    gate: Gate | None = Field(description="Null: it was not evaluated.")
    promotion: Promotion | None = Field(description="Null: it does not serve.")


class AdapterList(BaseModel):
    adapters: list[Shown]


class Arm(BaseModel):
    """One side of a comparison. The share of good answers is believed to be Beta(1 + up, 1 + down)."""

    requests: int
    failed: int
    up: int
    down: int
    good: float = Field(description="Its mean.")
    low: float = Field(description="From here…")
    high: float = Field(description="… to here it lies with 95 %.")


class Shadowed(BaseModel):
    answers: int
    agreement: float | None = Field(description="With what its base had answered: 0 to 1.")


class Compared(BaseModel):
    """How it does beside its base, since it was promoted: counted from the Ledger, so by no Router alone, and what
    one has never heard of counts too."""

    adapter: Arm = Field(description="Conversations that its share gave it.")
    base: Arm = Field(description="Those that its base answered meanwhile.")
    better: float = Field(description="P(its share of good answers is the greater one).")
    shadow: Shadowed


class OneShown(Shown):
    compared: Compared | None = Field(None, description="Null: it does not serve, or the Ledger is away.")


class Promoted(Shown):
    answer: str = Field(description="What its base said with it, asked before anybody else could ask.")


class Removed(BaseModel):
    name: str
    removed: bool


@routes.get("")
async def list_adapters() -> AdapterList:
    """Every adapter that was trained, by name."""
    found = await asyncio.to_thread(lambda: list(read_adapters(home().adapters)))
    return AdapterList.model_validate({"adapters": [_shown(one) for one in found]})


@routes.get("/{name}", responses=CONFLICT)
async def show_adapter(name: Name) -> OneShown:
    """One of them, and how it does beside its base."""
    manifest = await asyncio.to_thread(promotion.find, home().adapters, name)
    return OneShown.model_validate({**_shown(manifest), "compared": await _compared(manifest)})


@routes.post("/{name}/promote", responses=CONFLICT | DISK_FULL)
async def promote_adapter(name: Name, body: Promote, request: Request) -> Promoted:
    """Let it serve, from the next request on, beside its base, which is not restarted: as `ft:<base>:<name>`, and
    by share or shadow. It is loaded and asked a question first; where that fails, or its gate refuses it, it is
    left as it was. One that serves already serves so from now on."""
    folder = home().adapters
    manifest = await asyncio.to_thread(promotion.find, folder, name)
    reasons = promotion.objections(manifest)
    if reasons and not body.force:
        told = "; ".join(reasons)
        raise promotion.refused(f"Its gate refuses {name!r}: {told}. (`force` promotes it all the same.)", "gate")
    await asyncio.to_thread(promotion.check_share, folder, manifest, body.share)
    answer = await asked("router", "try_adapter", manifest.model, manifest.digest)
    wanted = Promotion(share=body.share, shadow=body.shadow, forced=bool(reasons))
    if reasons:
        act = f"promote {name} by force, although: {'; '.join(reasons)}"
        admission().append(audit_row(request.state.key.id, act[:300], 200))
    promoted = await asyncio.to_thread(promotion.promote, folder, manifest, wanted)
    return Promoted.model_validate({**_shown(promoted), "answer": answer})


@routes.post("/{name}/demote", responses=CONFLICT | DISK_FULL)
async def demote_adapter(name: Name) -> Shown:
    """Let it serve nobody, from the next request on. What it is answering now, it ends."""
    return Shown.model_validate(_shown(await asyncio.to_thread(promotion.demote, home().adapters, name)))


@routes.delete("/{name}", responses=CONFLICT | DISK_FULL)
async def remove_adapter(name: Name) -> Removed:
    """Delete it, if it is not promoted."""
    await asyncio.to_thread(promotion.remove, home().adapters, name)
    return Removed(name=name, removed=True)


async def _compared(manifest: AdapterManifest) -> dict[str, Any] | None:
    if manifest.promotion is None:
        return None
    try:
        found = await asked("ledger", "compared", manifest.model, manifest.base, manifest.promotion.at)
    except ChatError as error:
        if error.code != ENGINE_GONE:
            raise
        return None
    arms = sides_of(found["arms"])
    reports = {name: side.report() for name, side in arms.items()}
    return {**reports, "better": better(arms["adapter"], arms["base"]), "shadow": found["shadow"]}


def _shown(manifest: AdapterManifest) -> dict[str, Any]:
    return {**manifest.model_dump(mode="json"), "model": manifest.model}
