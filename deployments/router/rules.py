"""The decision: from request, classification and configuration to one variant. Pure.

Hard constraints come first (a named variant, images, context), then the reference rules: code to the
coder, translation to the translator, everything else to the variant of its level, capped by the
asking device.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from configs.catalog import Catalog
from configs.profile import Profile
from configs.routing import LEVELS, Level, Routing
from deployments.classifier.rules import Classification
from deployments.contract import ChatError, ChatRequest, RequestContext, invalid, node_away
from deployments.router.decision import Candidate, RouteDecision

AUTO = "auto"


@dataclass(frozen=True)
class Wish:
    """What `model` asks for: `auto`, a level, or one variant."""

    kind: str
    name: str


def resolve_model(requested: str | None, profile: Profile, routing: Routing) -> Wish:
    """Read `model`, through aliases. Raises a 404 `ChatError` for a name that nothing answers to."""
    name = (requested or AUTO).strip() or AUTO
    name = name.removeprefix("groupqwen/").removeprefix("openai/")
    name = routing.aliases.get(name, name)
    if name in (AUTO, "groupqwen"):
        return Wish("auto", AUTO)
    if name in LEVELS:
        return Wish("level", name)
    if name in profile.variants:
        return Wish("variant", name)
    raise ChatError(
        f"The model {requested!r} does not exist here. There are: auto, {', '.join(profile.variants)}.",
        status=404,
        kind="not_found_error",
        code="model_not_found",
        param="model",
    )


class Rules:
    """The reference rules over one profile. `decide` takes well under a millisecond."""

    def __init__(
        self, profile: Profile, catalog: Catalog, routing: Routing, away: Container[str] = frozenset()
    ) -> None:
        """`away`: variants whose node is not there now; it may change meanwhile."""
        self.away = away
        self.profile = profile
        self.catalog = catalog
        self.routing = routing

    def decide(self, request: ChatRequest, context: RequestContext, found: Classification) -> RouteDecision:
        """Choose. Raises `ChatError` where no variant may answer."""
        started = time.perf_counter()
        wish = resolve_model(request.model, self.profile, self.routing)
        if wish.kind == "variant":
            choices = [(wish.name, f"model {wish.name} was asked for")]
        else:
            choices = list(self._preferences(request, context, found, wish))
        passed: list[Candidate] = []
        for name, reason in choices:
            objection = self._objection(name, request, found)
            if objection is None:
                passed.append(Candidate(name))
                decision = self._decision(name, reason, request, context, found, passed)
                return replace(decision, decided_ms=round((time.perf_counter() - started) * 1e3, 3))
            passed.append(Candidate(name, objection))
        if wish.kind == "variant" and wish.name in self.away:
            raise node_away(wish.name, str(self.profile.variants[wish.name].node))
        if wish.kind == "variant" and found.task != "vision":
            # The variant itself says what is wrong with the request, in exact numbers.
            return self._decision(wish.name, choices[0][1], request, context, found, passed)
        raise self._nobody(passed, found)

    def fall_back(
        self, decision: RouteDecision, request: ChatRequest, found: Classification, awake: Iterable[str], why: str
    ) -> RouteDecision | None:
        """The best of those that are awake, in the place of one that cannot answer (`why`), or None."""
        able = [
            name for name in awake if name != decision.variant and self._objection(name, request, found) is None
        ]
        if not able:
            return None
        best = max(able, key=lambda name: self.catalog.variants[name].quality.prior)
        return replace(
            decision,
            variant=best,
            reason=f"{decision.reason}; {decision.variant} {why}, the best that is awake answers",
            parameters=dict(self.catalog.variants[best].sampling.model_dump()),
        )

    def _preferences(
        self, request: ChatRequest, context: RequestContext, found: Classification, wish: Wish
    ) -> Iterator[tuple[str, str]]:
        """Variants in the order in which they are wanted, each once, with the reason."""
        seen: set[str] = set()
        for name, reason in self._wanted(context, found, wish):
            if name not in seen:
                seen.add(name)
                yield name, reason

    def _wanted(self, context: RequestContext, found: Classification, wish: Wish) -> Iterator[tuple[str, str]]:
        profile = self.profile
        if found.task == "vision" and profile.vision:
            yield profile.vision, "images go to the vision variant"
        ceiling = self.routing.device_ceiling.get(context.device, "complex")
        if wish.kind == "level":
            level, why = _as_level(wish.name), f"level {wish.name} was asked for"
        else:
            if found.task == "code" and profile.code:
                yield profile.code, "code goes to the coder"
            if found.task == "translation" and profile.translation:
                yield profile.translation, "translation goes to the translator"
            level, why = found.level, f"{found.level} query"
            if LEVELS.index(level) > LEVELS.index(ceiling):
                level, why = ceiling, f"{found.level} query, capped at {ceiling} for {context.device}"
        node = profile.nodes.get(context.device)
        if node is not None and level in node.levels:
            yield node.levels[level], f"{why}, from the {context.device}"
        # The chosen level first, then larger ones (they can do what it can), then smaller ones.
        at = LEVELS.index(level)
        yield profile.levels[level], why
        for other in (*LEVELS[at + 1 :], *reversed(LEVELS[:at])):
            yield profile.levels[other], f"{why}; the variant for it cannot take this request"

    def _objection(self, name: str, request: ChatRequest, found: Classification) -> str | None:
        """Why `name` cannot take the request at all, or None."""
        spec, served = self.catalog.variants[name], self.profile.variants[name]
        if name in self.away:
            return f"its node, the {served.node}, is away"
        if found.task == "vision" and "vision" not in spec.capabilities:
            return "reads no images"
        if request.tools and request.tool_choice != "none" and "tools" not in spec.capabilities:
            return "calls no tools"
        if found.context_tokens > served.context:
            return f"context of {served.context} tokens is too short"
        return None

    def _decision(
        self,
        name: str,
        reason: str,
        request: ChatRequest,
        context: RequestContext,
        found: Classification,
        candidates: list[Candidate],
    ) -> RouteDecision:
        considered = [*candidates]
        named = {candidate.variant for candidate in considered}
        considered += [
            Candidate(other, "not preferred for this query")
            for other in self.profile.variants
            if other not in named
        ]
        parameters: Mapping[str, object] = self.catalog.variants[name].sampling.model_dump()
        return RouteDecision(
            variant=name,
            reason=reason,
            requested=request.model or AUTO,
            complexity=found.complexity,
            level=found.level,
            task=found.task,
            device=context.device,
            candidates=tuple(considered),
            parameters=dict(parameters),
        )

    def _nobody(self, passed: list[Candidate], found: Classification) -> ChatError:
        reasons = "; ".join(f"{c.variant}: {c.passed_over}" for c in passed)
        if found.task == "vision":
            return invalid(
                f"The request holds an image and the profile {self.profile.name!r} has no variant that reads "
                f"images ({reasons}). Send text, or start a profile with a vision variant.",
                param="messages",
                code="unsupported_modality",
            )
        if all("context" in (c.passed_over or "") for c in passed):
            longest = max(served.context for served in self.profile.variants.values())
            return invalid(
                f"The conversation holds about {found.context_tokens} tokens and the longest context here is "
                f"{longest}. Shorten it.",
                param="messages",
                code="context_length_exceeded",
            )
        return invalid(f"No variant can take this request ({reasons}).", param="model")


def _as_level(name: str) -> Level:
    return next(level for level in LEVELS if level == name)
