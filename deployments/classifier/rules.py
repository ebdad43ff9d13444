"""What kind of query this is, by the reference rules: complexity 0 to 1 and a task family. Pure.

The complexity score and its thresholds follow the reference system: length, context, keywords that
speak of hard work, and signs of several reasoning steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.routing import LEVELS, Level, Routing, Signal, Task, Thresholds

QUERY_CHARS = 20_000
"""The rules read this much of each end of a question: patterns over megabytes would hold up the loop."""

CHARS_PER_TOKEN = 4
THINKING = ":thinking"
"""Outcomes of a variant while it thinks are those of the model `NAME:thinking`."""

_STEPS = re.compile(
    r"(?m)^[ \t]*(?:\d+[.)]|[-*•])[ \t]+\S"
    r"|\b(?:first|second|third|then|next|after that|finally|step \d+)\b"
    r"|\?"
)


@dataclass(frozen=True)
class Classification:
    """What the Classifier found. `signals` are the parts of the score, each 0 to 1 before its weight."""

    complexity: float
    level: Level
    task: Task
    signals: Mapping[str, float] = field(default_factory=dict)
    context_tokens: int = 0
    """Rough length of the conversation, in tokens."""
    language: str | None = None
    """ISO 639-1, where it is plain."""
    domain: str | None = None
    """What the question is about, by the owner's labels (`groupqwen router families`)."""
    tools: bool = False
    """Whether the request offers tools."""
    think: bool = False
    """Whether thinking before the answer is likely to pay."""
    correct: Mapping[str, float] = field(default_factory=dict)
    """P(right) by variant, as learned from `learned_from` questions; empty where nothing was learned."""
    learned_from: int = 0
    spent_ms: Mapping[str, float] = field(default_factory=dict)
    """What each layer took, milliseconds."""


def classify(messages: Sequence[Mapping[str, Any]], routing: Routing) -> Classification:
    """Classify a conversation by its last user message and its length."""
    query = last_user_text(messages)
    if len(query) > 2 * QUERY_CHARS:
        query = query[:QUERY_CHARS] + query[-QUERY_CHARS:]
    tokens = rough_tokens(messages)
    lowered = query.lower()
    rules = routing.complexity
    signals = {
        "length": _saturated(len(query.split()), rules.length),
        "context": _saturated(tokens, rules.context),
        "keywords": _saturated(sum(_mentions(lowered, word) for word in routing.hard_keywords), rules.keywords),
        "steps": _saturated(len(_STEPS.findall(lowered)), rules.steps),
    }
    weights = {name: getattr(rules, name).weight for name in signals}
    complexity = sum(weights[name] * value for name, value in signals.items())
    return Classification(
        complexity=round(complexity, 4),
        level=level_of(complexity, routing.thresholds),
        task=_task(messages, query, routing),
        signals={name: round(value, 4) for name, value in signals.items()},
        context_tokens=tokens,
    )


def level_of(complexity: float, thresholds: Thresholds) -> Level:
    """The level that a complexity falls in."""
    bounds = (thresholds.simple, thresholds.moderate, thresholds.complex)
    return LEVELS[sum(complexity >= bound for bound in bounds)]


def has_images(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any message carries an image part."""
    return any(
        isinstance(part, Mapping) and part.get("type") in ("image_url", "input_image", "image")
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def rough_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Of a whole conversation, by its length."""
    return sum(len(text_of(message.get("content"))) for message in messages) // CHARS_PER_TOKEN


def text_of(content: Any) -> str:
    """The text in a message's content, whatever its form."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user said last."""
    return next((text_of(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")


def _task(messages: Sequence[Mapping[str, Any]], query: str, routing: Routing) -> Task:
    if has_images(messages):
        return "vision"
    patterns: tuple[tuple[Task, tuple[str, ...]], ...] = (
        ("translation", routing.translation_patterns),
        ("choice", routing.choice_patterns),
        ("code", routing.code_patterns),
        ("extraction", routing.extraction_patterns),
        ("maths", routing.maths_patterns),
        ("reasoning", routing.reasoning_patterns),
    )
    for task, of_task in patterns:
        if any(_pattern(pattern).search(query) for pattern in of_task):
            return task
    return "chat"


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


def _mentions(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase)}", text) is not None


def _saturated(count: float, signal: Signal) -> float:
    return min(1.0, count / signal.saturates_at)
