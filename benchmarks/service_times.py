"""Recorded service times: what the simulation of a fleet is fed with. Reads and checks; measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from configs.document import Strict, read

RECORDED = Path(__file__).parent / "data" / "service_times.yaml"

PARTS = ("HAProxy", "Gateway", "Router", "Classifier", "SemanticCache", "Redis", "Ledger")
"""What all nodes share, in the order in which a request meets them. `Ledger` is the deployment with PostgreSQL:
one drains into the other, so that a row takes the time of both."""


STREAMED = ("HAProxy", "Gateway", "Router")
"""What each token of an answer passes."""

TOUCHED = {
    "hit": (*STREAMED, "Redis", "Ledger"),
    "question": PARTS,
    "turn": tuple(part for part in PARTS if part != "SemanticCache"),
    "token": STREAMED,
    "kept": ("Redis",),
}
"""Which parts work for what, as `deployments/router/deployment.py` has it."""


def _curve(points: dict[int, float]) -> dict[int, float]:
    if len(points) < 2:
        raise ValueError("a curve takes two points at least")
    if min(points) < 1 or min(points.values()) <= 0:
        raise ValueError("every point of a curve must be at 1 or more, and take more than 0 seconds")
    return dict(sorted(points.items()))


Curve = Annotated[dict[int, float], AfterValidator(_curve)]


class VariantTimes(Strict):
    """One variant on one machine. Seconds of its own computing, as with nobody else on it."""

    parallel: int = Field(ge=1, description="Requests that it answers at once.")
    sequences: int = Field(ge=1, description="Sequences that its KV cache holds, running or kept as a prefix.")
    kv_tokens: int = Field(gt=0, description="Tokens that its KV cache holds.")
    fresh: Curve = Field(description="Prompt tokens, none of them in the KV cache → seconds to the first token.")
    reused: Curve = Field(description="The same for prompts that are in the KV cache but for their last line.")
    together: Curve = Field(description="Fresh prompts at once → seconds until each has its first token.")
    step: Curve = Field(description="Answers at once → seconds from one token of an answer to its next.")

    @model_validator(mode="after")
    def _concurrency_starts_at_one(self) -> VariantTimes:
        for name in ("together", "step"):
            if 1 not in getattr(self, name):
                raise ValueError(f"{name} must say what one request alone takes")
        if self.sequences < self.parallel:
            raise ValueError("sequences must be at least parallel: what runs is held too")
        return self


class PartTimes(Strict):
    """CPU milliseconds of one shared part. Each process of a part computes on one core, so that a part with one
    process is full when these add up to 1,000 ms in a second."""

    hit: float = Field(ge=0, description="For an exact cache hit.")
    question: float = Field(ge=0, description="For a question on its own: a miss, looked up by vector too.")
    turn: float = Field(ge=0, description="For a later turn of a conversation: a miss of the exact lookup.")
    token: float = Field(ge=0, description="For each further token of a streamed answer.")
    kept: float = Field(ge=0, description="For putting the answer to a question into the cache, on top.")


class ServiceTimes(Strict):
    """One recording."""

    machine: str
    disturbance: str = Field(description="How much others used the machine meanwhile.")
    command: str = Field(description="What made this file.")
    date: str
    profile: str
    variants: dict[str, VariantTimes] = Field(min_length=1, description="The smallest first.")
    parts: dict[str, PartTimes]
    prefix_tree: Curve | None = Field(
        None,
        description="Replicas → CPU milliseconds of a request in the tree of Ray's prefix-aware request router: "
        "look-up and insertion, without the calls to its actor.",
    )

    @model_validator(mode="after")
    def _every_part_is_there(self) -> ServiceTimes:
        if missing := [part for part in PARTS if part not in self.parts]:
            raise ValueError(f"parts lacks {', '.join(missing)}")
        if extra := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"parts holds {', '.join(extra)}, of which the simulation knows nothing")
        return self


def load_times(path: Path = RECORDED) -> ServiceTimes:
    """A recording. Raises `ConfigError` naming file, line and field."""
    return read(path, ServiceTimes)
