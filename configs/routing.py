"""Routing rules (`routing.yaml`): complexity, tiers, device classes, aliases. Data, not code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from configs.document import ROOT, Strict, read
from configs.escalation import EscalationRules, FallbackRules
from configs.home import home

Level = Literal["trivial", "simple", "moderate", "complex"]
LEVELS: tuple[Level, ...] = ("trivial", "simple", "moderate", "complex")
DeviceClass = Literal["server", "macbook", "mobile"]
CacheMode = Literal["exact", "fixed", "calibrated", "certified"]
Task = Literal["chat", "code", "choice", "maths", "reasoning", "extraction", "translation", "vision"]
Preference = Literal["economy", "balanced", "best"]
PREFERENCES: tuple[Preference, ...] = ("economy", "balanced", "best")


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
    mode: CacheMode = Field(
        "certified",
        description="exact: the same request only. fixed: whatever lies within `distance`. calibrated: what is "
        "`likely` to have the same answer. certified: as much as keeps the bound on wrong answers within "
        "`wrong_per_request`, by what was checked here.",
    )
    scope: Literal["own", "group", "shared"] = Field(
        "own",
        description="Who is served from whose answers: each key from its own, the keys of one group from each "
        "other's (`groupqwen keys group`), or all.",
    )
    distance: float = Field(0.10, ge=0, le=1, description="fixed: cosine distance up to which an entry serves.")
    likely: float = Field(0.75, ge=0, le=1, description="calibrated: the least P(same answer).")
    wrong_per_request: float = Field(
        0.01, gt=0, le=0.5, description="certified: the bound (95 %) on wrong answers from similar questions."
    )
    strict_distance: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Up to here an entry that no guard speaks against serves in any mode but exact.",
    )
    checked: float = Field(
        0.05, ge=0, le=1, description="Share of hits that are answered afresh later, when nothing else is to do."
    )
    verifier: str | None = Field(
        None,
        description="calibrated and certified: the variant that is asked whether two questions want one answer, "
        "where P(same answer) is between `doubtful` and what serves; `smallest`: of those that are always in "
        "memory. Unset: such a question is answered anew.",
    )
    doubtful: float = Field(
        0.3, ge=0, le=1, description="The least P(same answer) that a verifier is asked about."
    )
    verified: float = Field(0.8, ge=0, le=1, description="The verifier's P(yes) from which it says yes.")
    verify_ms: float = Field(
        150.0, gt=0, le=800, description="A verifier that takes longer has said no (milliseconds)."
    )
    judge: str | None = Field(
        None,
        description="The variant that compares two answers where words and numbers do not tell, asked in both "
        "orders, when a served one is checked; `smallest`: as above. Unset: their embeddings tell.",
    )
    candidates: int = Field(5, ge=1, le=20, description="Of the nearest entries, so many are looked at.")
    guards: bool = Field(
        True,
        description="fixed and calibrated: whether other numbers, units, names, negations or another order of "
        "words speak against an entry, however near it is.",
    )
    veto_distance: float = Field(
        0.05, ge=0, le=1, description="A false hit is refused to all questions within this distance of its own."
    )
    confident: float = Field(
        0.5,
        ge=0,
        le=1,
        description="An answer that its variant is less sure of (P(right), where known) is not kept.",
    )
    most_vetoes: int = Field(3, ge=1, description="An entry with so many false hits is thrown out.")
    ttl_seconds: int = Field(
        3600, gt=0, description="An entry's life, from when it was written (a tenth more or less)."
    )
    lives: dict[Task, int] = Field(
        default={"code": 86_400, "maths": 86_400, "reasoning": 86_400, "translation": 86_400},
        description="Another life for what does not age, by task, seconds; 0: not kept.",
    )
    stale: dict[Task, int] = Field(
        default={},
        description="By task, seconds beyond its life for which an answer serves while it is asked for anew.",
    )
    max_cache_size_mb: int = Field(
        256, gt=0, description="Beyond, what is worth least goes: seconds it took, times used, by size."
    )
    max_pinned: int = Field(1000, ge=0, description="Entries that stay until they are forgotten, of all keys.")
    max_temperature: float = Field(
        1.0, ge=0, le=2, description="A request hotter than this wants variety, not a cached answer."
    )
    budget_ms: float = Field(20.0, gt=0, description="A lookup that takes longer counts as a miss (milliseconds).")
    head_start_ms: float = Field(
        20.0,
        ge=0,
        description="Once a variant is decided for, so long the search for a similar question may go on before it "
        "is asked beside it (milliseconds). 0: at once, which spares a miss the search and costs a hit the start.",
    )


class Exchange(Strict):
    """What a chance of a right answer is given for."""

    per_cost: float = Field(
        ge=0, description="P(right) for one unit of cost: an answer of qwen3-8b (`price.relative` of the catalog)."
    )
    per_second: float = Field(ge=0, description="P(right) for a second until the whole answer is there.")


class Condition(Strict):
    """What a rule is for; everything that is set must hold."""

    task: tuple[Task, ...] = ()
    level: tuple[Level, ...] = ()
    device: tuple[DeviceClass, ...] = ()
    language: tuple[str, ...] = Field((), description="ISO 639-1 codes, as the question is read: en, de, zh.")
    domain: tuple[str, ...] = Field((), description="Labels of `groupqwen router families`.")
    matches: str | None = Field(None, description="A regular expression, anywhere in the last question.")
    tools: bool | None = Field(None, description="Whether the request offers tools.")
    min_tokens: int | None = Field(None, ge=0, description="Of the whole conversation, roughly.")
    max_tokens: int | None = Field(None, ge=0)
    max_chars: int | None = Field(None, ge=0, description="Of the last question.")
    budget_used: float | None = Field(
        None, ge=0, description="The least share that the key has used of any of its budgets (0.8: 80 %)."
    )
    key: tuple[str, ...] = Field((), description="Ids of API keys.")

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value


class Rule(Strict):
    """The first rule whose condition holds counts, and no other."""

    name: str = Field(description="Shown as the reason.")
    when: Condition
    force: str | None = Field(None, description="This variant answers, or nobody.")
    prefer: str | None = Field(None, description="This variant answers where it can.")
    prefer_level: Level | None = Field(None, description="The variant of this level answers where it can.")
    at_most_billions: float | None = Field(
        None, gt=0, description="Variants with more parameters answer only where no smaller one can."
    )
    forbid: tuple[str, ...] = Field((), description="These do not answer.")

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        if not (self.force or self.prefer or self.prefer_level or self.at_most_billions or self.forbid):
            raise ValueError(
                "a rule forces, prefers or forbids a variant, prefers a level, or bounds their parameters"
            )
        return self


class LearningRules(Strict):
    """How the group learns from what it is asked."""

    explore: float = Field(
        0.0, ge=0, le=0.5, description="Share of routed requests that try another variant (Thompson sampling)."
    )
    shadow: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of small variants' answers that the largest is asked for too, when idle.",
    )
    drift_alarm: float = Field(
        0.05, gt=0, lt=1, description="Chance of a false alarm that what was learned does not hold any more."
    )


class Routing(Strict):
    """`routing.yaml`."""

    thresholds: Thresholds
    complexity: ComplexitySignals
    hard_keywords: tuple[str, ...] = Field(description="Words that speak of hard work, lower-case.")
    code_patterns: tuple[str, ...] = Field(description="Regular expressions that speak of code.")
    translation_patterns: tuple[str, ...] = Field(description="Regular expressions of a translation.")
    maths_patterns: tuple[str, ...] = Field((), description="Regular expressions that speak of mathematics.")
    choice_patterns: tuple[str, ...] = Field((), description="Regular expressions of questions with options.")
    extraction_patterns: tuple[str, ...] = Field((), description="Regular expressions of summaries and extracts.")
    reasoning_patterns: tuple[str, ...] = Field((), description="Regular expressions of puzzles and arguments.")

    @field_validator(
        "code_patterns",
        "translation_patterns",
        "maths_patterns",
        "choice_patterns",
        "extraction_patterns",
        "reasoning_patterns",
    )
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
    rules: tuple[Rule, ...] = Field((), description="Looked through in order, before anything is weighed.")
    preference: Preference = Field("balanced", description="Where neither request nor key says otherwise.")
    exchange: dict[Preference, Exchange] = Field(description="What each preference gives for a right answer.")
    stickiness: float = Field(
        0.05,
        ge=0,
        le=1,
        description="P(right) by which another variant must be better to take a conversation over.",
    )
    escalation: EscalationRules
    fallback: FallbackRules = Field(default_factory=lambda: FallbackRules.model_validate({}))
    learning: LearningRules = Field(default_factory=lambda: LearningRules.model_validate({}))
    cache: CacheRules

    @field_validator("exchange")
    @classmethod
    def _all_preferences(cls, value: dict[Preference, Exchange]) -> dict[Preference, Exchange]:
        missing = [name for name in PREFERENCES if name not in value]
        if missing:
            raise ValueError(f"what do {', '.join(missing)} mean? All of {', '.join(PREFERENCES)} are needed")
        return value


ROUTING = ROOT / "routing.yaml"
"""The rules that come with GroupQwen."""


def load_routing(path: Path | None = None) -> Routing:
    """The rules; unset: the owner's (`routing.yaml` in GROUPQWEN_HOME), or those that come with GroupQwen. Raises
    `ConfigError`."""
    own = home().routing
    return read(path or (own if own.is_file() else ROUTING), Routing)
