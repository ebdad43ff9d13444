"""A canary: a new version of some variants, which is given a share of the requests while it is watched. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CANARY = "groupqwen-canary"
"""The Serve application that holds the new versions, under the names of the old."""


class CanaryRules(BaseModel):
    """What reaches the Router by `user_config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(ge=0, le=1, description="Of the requests for these variants.")
    variants: tuple[str, ...] = Field(description="Those of which there is a new version.")


class Canary:
    """Which requests it takes, and how they have ended."""

    def __init__(self, rules: CanaryRules) -> None:
        self.rules = rules
        self.outcomes: Counter[str] = Counter()

    def takes(self, variant: str, request_id: str) -> bool:
        """Chosen by the request's id: of many, the share; of one, always the same."""
        if variant not in self.rules.variants:
            return False
        drawn = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big")
        return drawn < self.rules.share * 2**64

    def ended(self, outcome: Literal["answered", "failed"]) -> None:
        self.outcomes[outcome] += 1

    def report(self) -> dict[str, Any]:
        """For whoever watches it. A client's own mistakes and departures count for neither."""
        return {
            **self.rules.model_dump(mode="json"),
            "answered": self.outcomes["answered"],
            "failed": self.outcomes["failed"],
        }
