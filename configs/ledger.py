"""What the Ledger keeps, and for how long: a part of a profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.document import Strict

QueryText = Literal["text", "hash", "none"]
"""What the Ledger keeps of a question: its first 500 characters, a salted hash, or nothing."""


class LedgerRules(Strict):
    """Rows of the query log, and of rated answers. (What people said of answers, and the audit log, stay.)"""

    query_text: QueryText = Field(
        "text",
        description="What is kept of a question, where its key says nothing of it: text (its first 500 "
        "characters), hash (a salted one: the same question is recognized, not read), none.",
    )
    retention_days: int | None = Field(
        365, ge=1, description="Days (UTC) after which a row is deleted; null: never."
    )
    examples: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="The last answers that the Router remembers with their words, so that one that is rated can "
        "be kept for training (16 million characters of them at most, and only of keys whose `query_text` is "
        "text); 0: none.",
    )
    electricity_usd_per_kwh: float = Field(0.3, ge=0, description="What a kilowatt-hour costs, US dollars.")
