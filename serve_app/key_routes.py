"""`/v1/keys`: the keys of this installation, for keys with the scope `admin` (the border sees to that)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from configs.home import home
from configs.routing import Preference
from deployments.contract import ChatError, invalid
from serve_app.keys import (
    GROUP_NAME,
    ApiKey,
    KeyScope,
    LastAdmin,
    create_key,
    read_keys,
    revoke_key,
    rotate_key,
)

routes = APIRouter(prefix="/v1/keys")

KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-f]{12}$")]


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="Who or what it is for.")
    scopes: list[KeyScope] = Field(["chat"], max_length=2, description="What it may do.")
    variants: list[Annotated[str, Field(max_length=100)]] | None = Field(
        None, max_length=100, description="Who may answer it; unset: all."
    )
    remote: bool = Field(True, description="Whether its requests may leave the group's own machines.")
    preference: Preference | None = Field(None, description="What answers are worth to it.")
    group: str | None = Field(
        None, pattern=f"^{GROUP_NAME}$", description="Keys of one group may be served from each other's answers."
    )


class Key(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    created: int
    scopes: list[KeyScope]
    variants: list[str] | None = None
    remote: bool
    preference: str | None = None
    group: str | None = None


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
    granted = body.model_dump(exclude={"name"})
    granted |= {
        "scopes": tuple(dict.fromkeys(body.scopes)),
        "variants": None if body.variants is None else tuple(body.variants),
    }
    key, secret = create_key(home().keys, body.name, **granted)
    return KeyWithSecret(**_shown(key).model_dump(), secret=secret)


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
    found = next((key for key in read_keys(home().keys) if key.id == key_id), None)
    if secret is None or found is None:
        raise _unknown(key_id)
    return KeyWithSecret(**_shown(found).model_dump(), secret=secret)


def _shown(key: ApiKey) -> Key:
    return Key(
        id=key.id,
        name=key.name,
        created=key.created,
        scopes=list(key.scopes),
        variants=None if key.variants is None else list(key.variants),
        remote=key.remote,
        preference=key.preference,
        group=key.group,
    )


def _unknown(key_id: str) -> ChatError:
    return ChatError(f"There is no key {key_id}.", status=404, kind="not_found_error", code="no_such_key")
