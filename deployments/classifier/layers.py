"""What is found out about a query, in layers, the cheapest first. Each has a latency budget: one that keeps
missing it is left out for a while, and the decision goes on without it. Pure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from configs.routing import Routing
from deployments.classifier.learned import Floats, Learned
from deployments.classifier.rules import THINKING, Classification, classify, last_user_text
from deployments.contract import ChatRequest

SURE_LANGUAGE = 0.95
SHORTEST_LANGUAGE = 20
"""Characters: of fewer, the language is a guess."""

REST_REQUESTS = 100
SLOW_AFTER = 5
"""A layer's running mean counts from so many requests on: the first ones load what it needs."""


class Layer(Protocol):
    """One kind of signal. `budget_ms`: what it may take, in the mean."""

    name: str
    budget_ms: float

    def read(self, request: ChatRequest, found: Classification, embedding: Floats | None) -> Classification:
        """What was found, with this layer's part added. `embedding`: the question's, where there is one."""
        ...


class Facts:
    """What the request says of itself, and the language that it is in."""

    name, budget_ms = "facts", 1.0

    def read(self, request: ChatRequest, found: Classification, embedding: Floats | None) -> Classification:
        offers = bool(request.tools) and request.tool_choice != "none"
        return replace(found, tools=offers, language=language_of(last_user_text(request.messages)))


class Domain:
    """What the question is about, as the owner labels such questions."""

    name, budget_ms = "domain", 5.0

    def __init__(self, families: Learned) -> None:
        self._families = families

    def read(self, request: ChatRequest, found: Classification, embedding: Floats | None) -> Classification:
        return replace(found, domain=self._families.likeliest(last_user_text(request.messages)))


class LearnedOutcomes:
    """P(right) of each variant, from outcomes."""

    name, budget_ms = "learned", 5.0

    def __init__(self, learned: Learned) -> None:
        self._learned = learned
        self._questions = int(learned.about.get("questions", 0))

    def read(self, request: ChatRequest, found: Classification, embedding: Floats | None) -> Classification:
        predicted = self._learned.predict(last_user_text(request.messages), embedding)
        return replace(found, correct=predicted, learned_from=self._questions)


class Thinking:
    """Whether thinking first is likely to pay: by outcomes where there are some, else for mathematics and
    reasoning that is not simple."""

    name, budget_ms = "thinking", 0.5

    def read(self, request: ChatRequest, found: Classification, embedding: Floats | None) -> Classification:
        gains = [
            found.correct[name + THINKING] - probability
            for name, probability in found.correct.items()
            if name + THINKING in found.correct
        ]
        if gains:
            return replace(found, think=max(gains) > 0.05)
        hard = found.level in ("moderate", "complex")
        return replace(found, think=hard and found.task in ("maths", "reasoning", "code"))


class Layers:
    """All layers over one configuration."""

    def __init__(
        self,
        routing: Routing,
        learned: Learned | None,
        clock: Callable[[], float] = time.perf_counter,
        families: Learned | None = None,
    ) -> None:
        self._routing = routing
        self._clock = clock
        outcomes = [] if learned is None else [LearnedOutcomes(learned)]
        domains = [] if families is None else [Domain(families)]
        self.layers: Sequence[Layer] = (Facts(), *domains, *outcomes, Thinking())
        self._mean: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._rests: dict[str, int] = {}

    def read(self, request: ChatRequest, embedding: Floats | None = None) -> Classification:
        """Classify."""
        found = classify(request.messages, self._routing)
        spent: dict[str, float] = {}
        for layer in self.layers:
            if self._rests.get(layer.name, 0):
                self._rests[layer.name] -= 1
                continue
            started = self._clock()
            found = layer.read(request, found, embedding)
            spent[layer.name] = round((self._clock() - started) * 1e3, 3)
            self._note(layer, spent[layer.name])
        return replace(found, spent_ms=spent)

    def _note(self, layer: Layer, ms: float) -> None:
        seen = self._seen[layer.name] = self._seen.get(layer.name, 0) + 1
        before = self._mean.get(layer.name, layer.budget_ms / 2)
        # One that took very long once (its process was stopped) is no slow layer.
        self._mean[layer.name] = before + 0.1 * (min(ms, 10 * layer.budget_ms) - before)
        if seen > SLOW_AFTER and self._mean[layer.name] > layer.budget_ms:
            self._rests[layer.name] = REST_REQUESTS
            self._mean[layer.name] = layer.budget_ms / 2


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> str | None:
    """ISO 639-1 code, or None where it is not sure, or no language."""
    if len(text) < SHORTEST_LANGUAGE:
        return None
    code, probability = _identifier().classify(text[:1000])
    return str(code) if probability >= SURE_LANGUAGE and code != "zxx" and not math.isnan(probability) else None
