"""Encryption at rest: what Redis holds of questions and answers, unreadable without the owner's key. Pure.

AES-256-GCM, each text bound to the entry that it belongs to, so that nobody who can write to Redis can move one
answer under another question, or make one up. Names of entries are keyed hashes, so that nobody who can read Redis
can try whether a question was asked. What must be compared stays readable: a question's embedding (which tells
roughly what it was about), the scope, the variant, times.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

logger = logging.getLogger("ray.serve")

KEY_BYTES = 32
_NONCE_BYTES = 12


class Unreadable(Exception):
    """A text that was not sealed with this key for this place, or was changed since."""


class Open:
    """No key is configured: texts are kept as they are."""

    name = "open"

    def named(self, name: str) -> str:
        """An entry's name, as Redis is told it."""
        return name

    def close(self, text: str, _place: str) -> str:
        """A text, as Redis is given it."""
        return text

    def open(self, kept: str, _place: str) -> str:
        """The text again. Raises `Unreadable`."""
        return kept


class Sealed(Open):
    """With a key of `KEY_BYTES`."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._names = hashlib.blake2b(b"names", key=key).digest()
        # Tells keys apart, and tells nothing of them.
        self.name = hashlib.blake2b(b"which", key=key, digest_size=6).hexdigest()

    def named(self, name: str) -> str:
        return hashlib.blake2b(name.encode(), key=self._names, digest_size=20).hexdigest()

    def close(self, text: str, place: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode("utf-8", "replace"), place.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, kept: str, place: str) -> str:
        try:
            sealed = base64.b64decode(kept, validate=True)
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise Unreadable(f"{place} was not sealed with this key") from error


def seal_of(path: Path) -> Open:
    """The seal of a key's file; none where there is no file. Raises `ValueError` for one that holds no key."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return Open()
    try:
        key = base64.urlsafe_b64decode(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} holds no key: put the right one back, or remove it (kept answers are lost)")
    return Sealed(key)


def seal_named(path: Path, name: str) -> Open:
    """The seal of this name, as replicas were deployed with it: one that starts anew, with the key changed
    beneath it, must neither find nor delete what the others keep. Where its key is gone, one that finds
    nothing."""
    if name == Open.name:
        return Open()
    try:
        found = seal_of(path)
    except ValueError as error:
        logger.error("%s", error)
    else:
        if found.name == name:
            return found
        logger.error("%s is another key than the one that was deployed: groupqwen deploy", path)
    return Sealed(secrets.token_bytes(KEY_BYTES))


def make_key(path: Path) -> None:
    """A new key. Raises `FileExistsError` where there is one."""
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n")
