"""`/v1/keys`: the keys of this installation, for keys with the scope `admin` (the border sees to that)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from configs.home import home
from configs.ledger import QueryText
from configs.routing import Preference
from deployments.budgets.limits import KeyLimits
from deployments.contract import ChatError, invalid
from serve_app.keys import (
    GROUP_NAME,
    ApiKey,
    KeyScope,
    LastAdmin,
    change_key,
    create_key,
    read_keys,
    revoke_key,
    rotate_key,
)

routes = APIRouter(prefix="/v1/keys")

MOST = 10**9
"""Of any limit."""

KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-f]{12}$")]


class Limits(BaseModel):
    """What a key may ask and spend; null: no limit. US dollars at the catalog's prices; periods in UTC."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: int | None = Field(None, ge=1, le=MOST)
    tokens_per_minute: int | None = Field(None, ge=1, le=MOST, description="Read and written.")
    concurrent: int | None = Field(None, ge=1, le=MOST, description="Requests at once.")
    usd_per_day: float | None = Field(None, ge=0, le=MOST, allow_inf_nan=False)
    usd_per_week: float | None = Field(None, ge=0, le=MOST, allow_inf_nan=False)
    usd_per_month: float | None = Field(None, ge=0, le=MOST, allow_inf_nan=False)
    alert_at: float = Field(0.8, gt=0, le=1, description="The share of a budget at which its owner is told.")


class Granted(BaseModel):
    """What a key may do, and how it is treated."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="Who or what it is for.")
    scopes: list[KeyScope] = Field(["chat"], max_length=3, description="What it may do.")
    variants: list[Annotated[str, Field(max_length=100)]] | None = Field(
        None, max_length=100, description="Who may answer it; unset: all."
    )
    remote: bool = Field(True, description="Whether its requests may leave the group's own machines.")
    preference: Preference | None = Field(None, description="What answers are worth to it.")
    group: str | None = Field(
        None, pattern=f"^{GROUP_NAME}$", description="Keys of one group may be served from each other's answers."
    )
    limits: Limits = Field(default_factory=lambda: Limits.model_validate({}))
    query_text: QueryText | None = Field(
        None, description="What the Ledger keeps of its questions; unset: as the profile says."
    )
    own_cache: bool = Field(False, description="It shares no cached answers, whatever routing.yaml says.")

    def fields(self) -> dict[str, Any]:
        """Of an `ApiKey`, those that were said."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        for name in ("scopes", "variants"):
            if said.get(name) is not None:
                said[name] = tuple(dict.fromkeys(said[name]))
        if "limits" in said:
            said["limits"] = KeyLimits(**self.limits.model_dump())
        return said


class NewKey(Granted):
    """A key to be made."""


class ChangedKey(Granted):
    """What a key is from now on; what is not said stays as it is."""

    name: str = Field("", min_length=1, max_length=100)


class Key(Granted):
    """A key, without its secret."""

    id: str
    created: int
    job: str | None = Field(None, description="The fine-tuning job that asks with it: it goes with that.")


class KeyWithSecret(Key):
    """A key that was made just now: its secret is told once and kept nowhere."""

    secret: str


class Keys(BaseModel):
    keys: list[Key]


class Revoked(BaseModel):
    id: str
    revoked: bool


@routes.get("")
def list_keys() -> Keys:
    """Every key, without secrets."""
    return Keys(keys=[_shown(key) for key in read_keys(home().keys)])


@routes.post("")
def make_key(body: NewKey) -> KeyWithSecret:
    """Make a key. Its secret is in this answer and nowhere else."""
    key, secret = create_key(home().keys, **{"scopes": ("chat",), **body.fields()})
    return KeyWithSecret(**_shown(key).model_dump(), secret=secret)


@routes.patch("/{key_id}")
def change(key_id: KeyId, body: ChangedKey, request: Request) -> Key:
    """Change what a key may do; it counts within a second. Who asks does not take the scope admin from itself."""
    if key_id == request.state.key.id and "admin" not in body.scopes and "scopes" in body.model_fields_set:
        raise invalid("A key does not take the scope admin from itself.", param="scopes")
    changes = body.fields()
    if "limits" in changes:
        changes["limits"] = body.limits.model_dump(exclude_unset=True)
    try:
        if changes and not change_key(home().keys, key_id, **changes):
            raise _unknown(key_id)
    except LastAdmin:
        raise invalid("Nobody would have the scope admin any more.", param="scopes") from None
    return _shown(_found(key_id))


@routes.delete("/{key_id}")
def revoke(key_id: KeyId, request: Request) -> Revoked:
    """Take a key out; it counts for nothing within a second. Not the one that asks, nor the last that may."""
    told = "A key does not revoke itself, nor the last one with the scope admin."
    if key_id == request.state.key.id:
        raise invalid(told, param="key_id")
    try:
        if not revoke_key(home().keys, key_id):
            raise _unknown(key_id)
    except LastAdmin:
        raise invalid(told, param="key_id") from None
    return Revoked(id=key_id, revoked=True)


@routes.post("/{key_id}/rotate")
def rotate(key_id: KeyId) -> KeyWithSecret:
    """Give a key another secret; the one before counts for nothing within a second."""
    secret = rotate_key(home().keys, key_id)
    if secret is None:
        raise _unknown(key_id)
    return KeyWithSecret(**_shown(_found(key_id)).model_dump(), secret=secret)


def _found(key_id: str) -> ApiKey:
    found = next((key for key in read_keys(home().keys) if key.id == key_id), None)
    if found is None:
        raise _unknown(key_id)
    return found


def _shown(key: ApiKey) -> Key:
    return Key.model_validate({name: value for name, value in asdict(key).items() if name != "sha256"})


def _unknown(key_id: str) -> ChatError:
    return ChatError(f"There is no key {key_id}.", status=404, kind="not_found_error", code="no_such_key")
