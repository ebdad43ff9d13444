"""How the cache's things are called in Redis. Pure."""

from __future__ import annotations

from dataclasses import dataclass

EXACT = "gq:exact:"
SEMANTIC = "gq:semantic"
BOOKS = "gq:cache:"
EPOCH = "gq:cache:epoch"
"""Raised by whatever forgets entries: an answer that was asked for before is not kept afterwards."""

LAYOUT = 6
"""Part of the index's name: raise it when its fields change."""


@dataclass(frozen=True)
class Names:
    """Of what is sealed by one key (its name), and found by one embedder (its fingerprint)."""

    seal: str
    embedder: str = ""

    @property
    def exact(self) -> str:
        """Where entries begin that are found by their key."""
        return f"{EXACT}{self.seal}:"

    @property
    def indexes(self) -> str:
        """Where the names of this seal's indexes begin."""
        return f"{SEMANTIC}{LAYOUT}:{self.seal}:"

    @property
    def index(self) -> str:
        return f"{self.indexes}{self.embedder}"

    @property
    def similar(self) -> str:
        """Where entries begin that are found by their vector."""
        return entries_of(self.index)

    @property
    def books(self) -> str:
        """Where the books begin: what is there, how large it is, what it is worth."""
        return f"{BOOKS}{self.seal}:"

    def book(self, name: str) -> str:
        return self.books + name


def entries_of(index: str) -> str:
    """Where the entries of an index begin."""
    return f"{index}:entry:"


def events_of(index: str) -> str:
    """The log of what was learned with its embedder."""
    return f"{index}:events"


def as_text(value: bytes | str) -> str:
    """What Redis has said."""
    return value.decode() if isinstance(value, bytes) else str(value)
