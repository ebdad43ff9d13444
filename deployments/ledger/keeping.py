"""What the Ledger keeps of a question: its first words, a salted hash, or nothing."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from configs.ledger import QueryText

QUERY_CHARS = 500
"""How much of the question is kept."""

HASHED = "hmac:"
"""Where a hash begins."""


class Keeping:
    """By one installation's salt: the same question has the same hash here, and elsewhere another."""

    def __init__(self, usual: QueryText, salt: bytes) -> None:
        """`usual`: for keys that say nothing of it."""
        self._usual, self._salt = usual, salt

    def policy(self, wanted: QueryText | None) -> QueryText:
        """What counts for a key that wants this."""
        return wanted or self._usual

    def kept(self, text: str, wanted: QueryText | None) -> str:
        """What is written down of a question."""
        policy = self.policy(wanted)
        if policy == "text":
            return text[:QUERY_CHARS]
        if policy == "none" or not text:
            return ""
        folded = " ".join(text.split()).encode("utf-8", "replace")
        return HASHED + hmac.new(self._salt, folded, hashlib.sha256).hexdigest()


def salt_at(path: Path) -> bytes:
    """The salt in a file, which is made, for its owner only, where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        staged = path.with_suffix(f".{secrets.token_hex(4)}")
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            # Of several that make one at once, all take the first.
            os.link(staged, path)
        except FileExistsError:
            pass
        finally:
            staged.unlink()
        return path.read_bytes()
