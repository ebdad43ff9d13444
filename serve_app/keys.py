"""API keys: made at random, stored as SHA-256, looked up in constant time.

A key is 256 random bits, so a plain hash is as good as a slow one. The file is read again when it
changes, so that a key made or revoked counts at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from configs.ledger import QueryText
from deployments.budgets.limits import KeyLimits

PREFIX = "gq-"
GROUP_NAME = r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}"
CHECK_SECONDS = 1.0


KeyScope = Literal["chat", "finetune", "admin"]
SCOPES: tuple[KeyScope, ...] = ("chat", "finetune", "admin")
"""chat: to ask, and to see and forget one's own. finetune: to upload files and train on them. admin: keys, memory,
rollouts, everyone's cache and jobs."""


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key. `id` is safe to show and log. A key of before there were scopes may do all."""

    id: str
    name: str
    sha256: str
    created: int
    preference: str | None = None
    """economy, balanced or best, where a request does not say; None: as the owner has set it."""
    group: str | None = None
    """Keys of one group may be served from each other's answers."""
    scopes: tuple[KeyScope, ...] = SCOPES
    variants: tuple[str, ...] | None = None
    """Who may answer it; None: all."""
    remote: bool = True
    """Whether its requests may leave the group's own machines."""
    limits: KeyLimits = field(default_factory=KeyLimits)
    query_text: QueryText | None = None
    """What the Ledger keeps of its questions; None: as the profile says."""
    own_cache: bool = False
    """It is served from its own answers only, whatever the group shares."""
    job: str | None = None
    """The fine-tuning job that asks with it: it goes with that."""


def hash_key(secret: str) -> str:
    """The stored form of a key."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """The keys in a file; none if it is not there. Raises ValueError where it is damaged."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    try:
        return [_key(entry) for entry in json.loads(text)["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); put it back, or remove it to make a new key") from error


def _key(entry: dict[str, Any]) -> ApiKey:
    """A key as it is kept. What a newer version has written beside is left alone, not damage."""
    said = _known(
        ApiKey, {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    )
    return ApiKey(**{**said, "limits": KeyLimits(**_known(KeyLimits, said.get("limits", {})))})


def _known(kind: type[Any], said: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in said.items() if name in names}


def create_key(
    path: Path, name: str, secret: str | None = None, instead_of: str = "", **granted: Any
) -> tuple[ApiKey, str]:
    """Make a key, of `secret` where one is given, and add it to the file; its secret is returned and kept nowhere.
    The key that is stored as `instead_of` is taken out, and those of the same job: each of its attempts makes one.
    `granted`: its other fields."""
    secret = secret or PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(f"key_{secrets.token_hex(6)}", name, hash_key(secret), int(time.time()), **granted)
    with _alone(path):
        others = [
            each
            for each in read_keys(path)
            if each.sha256 != instead_of and (each.job is None or each.job != key.job)
        ]
        _write(path, [*others, key])
    return key, secret


class LastAdmin(Exception):
    """Nobody could make a key any more without this one."""


def revoke_key(path: Path, key_id: str) -> bool:
    """Take a key out; whether it was there. Raises `LastAdmin`."""
    with _alone(path):
        keys = read_keys(path)
        if _admins(keys) == [key_id]:
            raise LastAdmin
        left = [key for key in keys if key.id != key_id]
        if len(left) < len(keys):
            _write(path, left)
    return len(left) < len(keys)


def rotate_key(path: Path, key_id: str) -> str | None:
    """Give a key another secret, which is returned; the one before is none any more. None where there is no such
    key."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret if change_key(path, key_id, sha256=hash_key(secret)) else None


def change_key(path: Path, key_id: str, limits: Mapping[str, Any] | None = None, **changes: Any) -> bool:
    """What a key is from now on; whether there is such a key. `limits`: those that change. Raises `LastAdmin`."""
    with _alone(path):
        keys = read_keys(path)
        found = next((key for key in keys if key.id == key_id), None)
        if found is None:
            return False
        now = replace(found, limits=replace(found.limits, **(limits or {})), **changes)
        changed = [now if key is found else key for key in keys]
        if _admins(keys) and not _admins(changed):
            raise LastAdmin
        _write(path, changed)
    return True


def end_job_keys(path: Path, under_way: Container[str]) -> list[str]:
    """Take out the keys of all jobs but these; the ids of those that went."""

    def over(key: ApiKey) -> bool:
        return key.job is not None and key.job not in under_way

    if not any(map(over, read_keys(path))):
        return []
    with _alone(path):
        keys = read_keys(path)
        _write(path, [key for key in keys if not over(key)])
    return [key.id for key in keys if over(key)]


def _admins(keys: list[ApiKey]) -> list[str]:
    return [key.id for key in keys if "admin" in key.scopes]


def _alone(path: Path) -> FileLock:
    """The command and several Gateways change one file: one after the other."""
    return FileLock(f"{path}.lock", mode=0o600, timeout=10)


def _write(path: Path, keys: list[ApiKey]) -> None:
    staged = path.with_suffix(".new")
    staged.touch(mode=0o600)
    staged.write_text(json.dumps({"keys": [asdict(each) for each in keys]}, indent=1))
    os.replace(staged, path)


class KeyRing:
    """The keys of one file, as the Gateway asks for them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str, ApiKey] = {}
        self._by_id: dict[str, ApiKey] = {}
        self._version: tuple[int, int] | None = None
        self._checked = 0.0

    def find(self, secret: str) -> ApiKey | None:
        """The key that `secret` is, or None. Only hashes are compared, so timing tells nothing of a key."""
        self._refresh()
        return self._keys.get(hash_key(secret))

    def again(self, key: ApiKey) -> ApiKey | None:
        """A key as it is now; None where it was revoked, or has another secret."""
        self._refresh()
        return self._keys.get(key.sha256)

    def limits(self, key_id: str) -> KeyLimits:
        """What a key may ask and spend now."""
        self._refresh()
        key = self._by_id.get(key_id)
        return KeyLimits() if key is None else key.limits

    def _refresh(self) -> None:
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._keys, self._by_id, self._version = {}, {}, None
            return
        version = (stat.st_mtime_ns, stat.st_ino)
        if version != self._version:
            self._keys = {key.sha256: key for key in read_keys(self._path)}
            self._by_id = {key.id: key for key in self._keys.values()}
            self._version = version
