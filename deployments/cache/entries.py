"""What the cache's store keeps, and shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.cache.answer import CachedAnswer


@dataclass(frozen=True)
class Kept:
    """What is kept of an answer. `key`: its exact key, which is also the entry's id; `epoch`: of when it was asked
    for; `scope`: who may be served; `seconds`: its life (`PINNED`: until it is forgotten); `tag`: what it rests
    on. The rest is None where no similar question may be served."""

    key: str
    answer: CachedAnswer
    epoch: str
    scope: str
    seconds: int
    fingerprint: str | None = None
    embedding: bytes | None = None
    query: str = ""
    group: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Shown:
    """An entry as people see it. `expires_at`: seconds since 1970, None for a pinned one."""

    entry: str
    query: str
    group: str
    variant: str
    answer: CachedAnswer
    expires_at: float | None
    distance: float | None = None
    tag: str = ""


@dataclass(frozen=True)
class Room:
    """What is kept: entries, their size (bytes, roughly), and how many of them are pinned."""

    entries: int
    size: int
    pinned: int
