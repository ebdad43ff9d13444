"""Routing rules (`routing.yaml`): complexity, tiers, device classes, aliases. Data, not code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from configs.document import ROOT, Strict, read

Level = Literal["trivial", "simple", "moderate", "complex"]
LEVELS: tuple[Level, ...] = ("trivial", "simple", "moderate", "complex")
DeviceClass = Literal["server", "macbook", "mobile"]


class Thresholds(Strict):
    """Complexity (0 to 1) at which each level begins; below `simple` a query is trivial."""

    simple: float = Field(0.2, ge=0, le=1)
    moderate: float = Field(0.5, ge=0, le=1)
    complex: float = Field(0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _ascend(self) -> Thresholds:
        if not self.simple <= self.moderate <= self.complex:
            raise ValueError("thresholds must ascend: simple ≤ moderate ≤ complex")
        return self


class Signal(Strict):
    """One part of the complexity score."""

    weight: float = Field(ge=0, le=1, description="Its share of the score.")
    saturates_at: float = Field(gt=0, description="The count at which it gives its full weight.")


class ComplexitySignals(Strict):
    """The reference rules: length, context, keywords and reasoning steps, each with its weight."""

    length: Signal = Field(description="Words of the last user message.")
    context: Signal = Field(description="Tokens of the whole conversation, roughly.")
    keywords: Signal = Field(description="Keywords that speak of hard work.")
    steps: Signal = Field(description="Marks of several steps: numbering, 'then', question marks.")

    @model_validator(mode="after")
    def _weights_add_up(self) -> ComplexitySignals:
        total = self.length.weight + self.context.weight + self.keywords.weight + self.steps.weight
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the four weights must add up to 1, not {total:g}")
        return self


class CacheRules(Strict):
    """The semantic cache."""

    enabled: bool = True
    distance: float = Field(0.10, ge=0, le=1, description="Cosine distance up to which an entry serves.")
    ttl_seconds: int = Field(3600, gt=0, description="An entry's life, from when it was written.")
    max_temperature: float = Field(
        1.0, ge=0, le=2, description="A request hotter than this wants variety, not a cached answer."
    )
    budget_ms: float = Field(50.0, gt=0, description="A lookup that takes longer counts as a miss (milliseconds).")


class Routing(Strict):
    """`routing.yaml`."""

    thresholds: Thresholds
    complexity: ComplexitySignals
    hard_keywords: tuple[str, ...] = Field(description="Words that speak of hard work, lower-case.")
    code_patterns: tuple[str, ...] = Field(description="Regular expressions that speak of code.")
    translation_patterns: tuple[str, ...] = Field(description="Regular expressions of a translation.")

    @field_validator("code_patterns", "translation_patterns")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return value

    device_ceiling: dict[DeviceClass, Level] = Field(
        description="The highest level that a device class is served by default."
    )
    aliases: dict[str, str] = Field(
        default_factory=dict, description="Familiar model names → `auto`, a level, or a variant."
    )
    cache: CacheRules


def load_routing(path: Path = ROOT / "routing.yaml") -> Routing:
    """The rules. Raises `ConfigError`."""
    return read(path, Routing)
