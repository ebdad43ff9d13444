"""A route is data: what was decided, from what, and why the others were passed over."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from openai.types.chat import ChatCompletionChunk
from pydantic import TypeAdapter

CacheOutcome = Literal["exact", "semantic", "coalesced", "miss", "bypass"]
HITS = ("exact", "semantic", "coalesced")
"""Outcomes for which nobody was asked. Coalesced: the same was being answered for someone else."""


@dataclass(frozen=True)
class Candidate:
    """A variant that was considered. `passed_over` is None for the one that was chosen. `correct`, `cost`,
    `seconds`: what was expected of it, where that was weighed (P(right); in answers of qwen3-8b; until the whole
    answer)."""

    variant: str
    passed_over: str | None = None
    correct: float | None = None
    cost: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One variant that was asked. `outcome`: answered, escalated, corrected, stopped, or the cause of its failure.
    `tokens`: how many it said. `confidence`: P(right) when that was decided, where it is known."""

    variant: str
    outcome: str
    tokens: int
    ms: float
    confidence: float | None = None
    heard: bool = False
    """Whether the client has what it said, or a part of it."""
    checked: int = 0
    """Tokens, read and said, that asking it about its own answer took."""


@dataclass(frozen=True)
class RouteDecision:
    """Which variant answers, and why. `escalation_threshold`: the confidence below which a larger variant
    would be asked (None: not for this route). `attempts`: who was asked in turn, with what came of it, the one who
    answered last. `forced`: by one of the owner's rules, so that nobody else may answer. `decided_ms`: how long
    deciding took, milliseconds. `arm`: of a comparison between a variant and its adapter, the side that was drawn:
    `base` or `adapter`; None where none is made. A cache hit is not classified: its `complexity`, `level`, `task`
    and `domain` are None."""

    variant: str
    reason: str
    requested: str
    device: str
    complexity: float | None = None
    level: str | None = None
    task: str | None = None
    domain: str | None = None
    candidates: tuple[Candidate, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    preference: str | None = None
    think: bool | None = None
    escalation_threshold: float | None = None
    attempts: tuple[Attempt, ...] = ()
    forced: bool = False
    decided_ms: float = 0.0
    arm: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For logs, the Ledger and clients that ask. (`asdict` copies whatever it meets, which takes several times
        as long, and this is done for every request.)"""
        candidates, attempts = (tuple(map(dict, map(vars, those))) for those in (self.candidates, self.attempts))
        return {**vars(self), "parameters": dict(self.parameters), "candidates": candidates, "attempts": attempts}

    def header(self) -> str:
        """One line for `x-groupqwen-decision`, in ASCII."""
        line = self.reason
        if self.complexity is not None:
            line += f"; complexity={self.complexity:.2f}; level={self.level}; task={self.task}"
        return line.encode("ascii", "replace").decode()


@dataclass(frozen=True)
class Given:
    """An entry of the cache, and, where it served a similar question, that one's embedding; who has asked."""

    key_id: str
    entry: str
    embedding: bytes | None

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        embedding = None if self.embedding is None else base64.b64encode(self.embedding).decode()
        return {"key_id": self.key_id, "entry": self.entry, "embedding": embedding}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Given:
        """What `as_dict` has said."""
        embedding = said["embedding"]
        return cls(said["key_id"], said["entry"], None if embedding is None else base64.b64decode(embedding))


@dataclass(frozen=True)
class Routed:
    """The first thing a routed answer says: its decision and what the cache had to say."""

    decision: RouteDecision
    cache: CacheOutcome
    cache_distance: float | None = None
    cached_at: int | None = None
    """When the kept answer was given, seconds since 1970."""
    given: Given | None = None
    """The entry that gave it, or that is made of it."""


Item = Routed | ChatCompletionChunk
"""What an answer consists of on its way through the Router."""

_DECISION = TypeAdapter(RouteDecision)


def to_json(item: Item) -> dict[str, Any]:
    """An item, for another Router."""
    if isinstance(item, ChatCompletionChunk):
        return {"chunk": item.model_dump(mode="json", exclude_unset=True)}
    return {"routed": {**asdict(item), "given": item.given and item.given.as_dict()}}


def from_json(said: dict[str, Any]) -> Item:
    """The item again. Raises `ValueError`."""
    if "chunk" in said:
        return ChatCompletionChunk.model_validate(said["chunk"])
    fields = dict(said["routed"])
    given = fields["given"] and Given.of(fields["given"])
    return Routed(**{**fields, "decision": _DECISION.validate_python(fields["decision"]), "given": given})
