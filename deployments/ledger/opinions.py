"""Rows of the Ledger beside the query log: what is said of an answer afterwards, by people and by larger variants,
and acts of administration. Pure."""

from __future__ import annotations

import secrets
import time
from typing import Any, Literal

from openai.types import CompletionUsage
from pydantic import BaseModel, ConfigDict, Field

from configs.catalog import Catalog
from deployments.ledger.prices import cost_of

Rating = Literal["up", "down", "regenerate"]
COLUMNS = {
    "feedback": ("id", "at", "request_id", "key_id", "rating", "correction", "comment"),
    "shadows": (
        "id",
        "at",
        "request_id",
        "variant",
        "other",
        "agreement",
        "prompt_tokens",
        "completion_tokens",
        "cost_usd",
    ),
    "audit": ("id", "at", "key_id", "act", "status"),
    "examples": (
        "id",
        "at",
        "request_id",
        "key_id",
        "variant",
        "rating",
        "messages",
        "answer",
        "correction",
    ),
}
"""By table."""

TABLE = "table"
"""The field of a journal's row that says where it belongs; a row without it is a query."""


class Feedback(BaseModel):
    """What someone thinks of an answer."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=128, description="`x-request-id` of the answer.")
    rating: Rating | None = Field(
        None, description="`regenerate` (asked once more) counts as down; unset with a correction: down."
    )
    correction: str | None = Field(None, max_length=100_000, description="What would have been right.")
    comment: str | None = Field(None, max_length=4000)

    @property
    def verdict(self) -> Rating | None:
        """The rating; a correction alone says that the answer was wrong."""
        return self.rating or ("down" if self.correction else None)

    def as_row(self, key_id: str) -> dict[str, Any]:
        """For the journal. JSON types only."""
        return {
            **_identity("feedback"),
            "request_id": self.request_id,
            "key_id": key_id,
            "rating": self.verdict,
            "correction": self.correction,
            "comment": self.comment,
        }


def shadow_row(
    request_id: str, variant: str, other: str, agreement: float, usage: CompletionUsage | None, catalog: Catalog
) -> dict[str, Any]:
    """For the journal: `variant` has answered, and `other` was asked too, which took `usage`."""
    read, said = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    agreed = {"variant": variant, "other": other, "agreement": round(agreement, 4)}
    spent = {"prompt_tokens": read, "completion_tokens": said, "cost_usd": cost_of(other, read, said, catalog)}
    return {**_identity("shadows"), "request_id": request_id, **agreed, **spent}


def audit_row(key_id: str, act: str, status: int) -> dict[str, Any]:
    """For the journal: a key did something that touches others, and what came of it (an HTTP status)."""
    return {**_identity("audit"), "key_id": key_id, "act": act, "status": status}


def _identity(table: str) -> dict[str, Any]:
    return {TABLE: table, "id": secrets.token_hex(12), "at": time.time()}
