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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PREFIX = "gq-"
CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key. `id` is safe to show and log."""

    id: str
    name: str
    sha256: str
    created: int
    preference: str | None = None
    """economy, balanced or best, where a request does not say; None: as the owner has set it."""
    group: str | None = None
    """Keys of one group may be served from each other's answers."""


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
        return [ApiKey(**entry) for entry in json.loads(text)["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); put it back, or remove it to make a new key") from error


def create_key(path: Path, name: str, secret: str | None = None, instead_of: str = "") -> tuple[ApiKey, str]:
    """Make a key, of `secret` where one is given, and add it to the file; its secret is returned and kept nowhere.
    The key that is stored as `instead_of` is taken out."""
    secret = secret or PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(f"key_{secrets.token_hex(6)}", name, hash_key(secret), int(time.time()))
    _write(path, [*(each for each in read_keys(path) if each.sha256 != instead_of), key])
    return key, secret


def change_key(path: Path, key_id: str, **fields: Any) -> bool:
    """What a key prefers, or which group it is of, from now on; whether there is such a key."""
    keys = read_keys(path)
    if all(key.id != key_id for key in keys):
        return False
    _write(path, [replace(key, **fields) if key.id == key_id else key for key in keys])
    return True


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
        self._version: tuple[int, int] | None = None
        self._checked = 0.0

    def find(self, secret: str) -> ApiKey | None:
        """The key that `secret` is, or None. Only hashes are compared, so timing tells nothing of a key."""
        self._refresh()
        return self._keys.get(hash_key(secret))

    def _refresh(self) -> None:
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._keys, self._version = {}, None
            return
        version = (stat.st_mtime_ns, stat.st_ino)
        if version != self._version:
            self._keys = {key.sha256: key for key in read_keys(self._path)}
            self._version = version
