"""The decision: from request, classification and configuration to one variant. Pure.

Hard constraints come first (a named variant, images, tools, context, language, budget, the owner's rules). Of
those that are left the best offer is chosen, where outcomes were learned; else the reference rules decide: code to
the coder, translation to the translator, everything else to the variant of its level, capped by the asking device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from configs.adapters import AdapterManifest, base_of, may_ask
from configs.catalog import Catalog, VariantSpec
from configs.profile import Profile
from configs.routing import LEVELS, Level, Preference, Routing, Rule
from deployments.adapters.sides import arm, tried
from deployments.classifier.rules import THINKING, Classification
from deployments.contract import (
    AUTO,
    Adapter,
    ChatError,
    ChatRequest,
    RequestContext,
    invalid,
    node_away,
    not_allowed,
)
from deployments.router.bandit import Bandit
from deployments.router.calibration import nothing
from deployments.router.choice import Offer, blended, choose
from deployments.router.conditions import holds
from deployments.router.conversations import Turn
from deployments.router.decision import Candidate, RouteDecision
from deployments.router.escalation import Judges
from deployments.router.pace import Pace
from deployments.router.wishes import Wish, resolve_model


@dataclass
class Situation:
    """How things stand while a decision is made. `away`: variants whose node is not there. `loading`: seconds
    until one that is not in memory could begin. `rests`: those that have failed a moment ago. `bandit`: what was
    said of answers since the Router's start. `adapters`: those that are promoted, by model name."""

    away: Container[str] = frozenset()
    pace: Pace = field(default_factory=Pace)
    loading: Mapping[str, float] = field(default_factory=dict)
    rests: Container[str] = frozenset()
    bandit: Bandit = field(default_factory=lambda: Bandit(0.0))
    adapters: Mapping[str, AdapterManifest] = field(default_factory=dict)


class Rules:
    """The rules over one profile. `decide` takes well under a millisecond."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        routing: Routing,
        situation: Situation | None = None,
        judges: Judges | None = None,
    ) -> None:
        """`situation` may change meanwhile."""
        self.profile = profile
        self.catalog = catalog
        self.routing = routing
        self.situation = situation or Situation()
        self.judges = judges or Judges(nothing(), routing.escalation)

    def decide(
        self, request: ChatRequest, context: RequestContext, found: Classification, last: Turn | None = None
    ) -> RouteDecision:
        """Choose. `last`: who has answered in this conversation before. Raises `ChatError` where no variant may
        answer."""
        started = time.perf_counter()
        wish = resolve_model(request.model, self.profile, self.routing)
        preference = context.preference or self.routing.preference
        rule = None if wish.kind == "variant" else self._rule(request, context, found)
        offers: list[Offer] = []
        if wish.kind == "variant":
            choices = [(wish.name, f"model {wish.name} was asked for")]
        elif rule is not None and rule.force:
            choices = [(rule.force, f"rule: {rule.name}")]
        else:
            choices = list(self._preferences(request, context, found, wish, preference, last))
            if wish.kind == "auto" and found.correct:
                offers = [
                    self._offer(name, found)
                    for name in self._within_reach(context, found, choices)
                    if self._objection(name, request, context, found, rule) is None
                ]
            if offers:
                offers = self.situation.bandit.informed(offers, found.task)
                choices = self._by_worth(offers, preference, last, found) + choices
            if rule is not None and rule.prefer_level:
                choices = [(self.profile.levels[rule.prefer_level], f"rule: {rule.name}"), *choices]
            if rule is not None and rule.prefer:
                choices = [(rule.prefer, f"rule: {rule.name}"), *choices]
        passed: list[Candidate] = []
        objections = {
            name: self._objection(name, request, context, found, None if wish.kind == "variant" else rule)
            for name, _ in choices
        }
        if wish.kind != "variant":
            objections = self._with_doubts(objections, rule, found, wish)
        for name, reason in choices:
            objection = objections[name]
            if objection is None:
                answers = name
                if wish.kind != "variant" and (rule is None or name not in (rule.force, rule.prefer)):
                    answers = self._on_its_side(name, request, context, found, rule)
                if answers != name:
                    reason = f"{reason}; of its conversations {answers} answers this one"
                passed = [*_once(passed), Candidate(answers)]
                decision = self._decision(answers, reason, request, context, found, passed, offers, preference)
                forced = rule is not None and rule.force == answers
                spent = round((time.perf_counter() - started) * 1e3, 3)
                return replace(decision, forced=forced, arm=None if forced else decision.arm, decided_ms=spent)
            passed.append(Candidate(name, objection))
        own = base_of(wish.name)
        if wish.kind == "variant" and not may_ask(context.variants, wish.name):
            may = ", ".join(context.variants or ()) or "none"
            raise not_allowed(f"This key may not ask {wish.name!r}; it may ask: {may}.")
        if wish.kind == "variant" and own in self.situation.away:
            raise node_away(wish.name, str(self.profile.variants[own].node))
        bounded = not context.remote or context.max_cost_usd is not None
        if wish.kind == "variant" and found.task != "vision" and not bounded:
            # The variant itself says what is wrong with the request, in exact numbers.
            return self._decision(wish.name, choices[0][1], request, context, found, passed, [], preference)
        raise self._nobody(_once(passed), found)

    def spec(self, name: str) -> VariantSpec:
        """What the catalog says of a variant; of one with an adapter, what it says of the base."""
        return self.catalog.variants[base_of(name)]

    def adapter(self, request: ChatRequest, context: RequestContext, found: Classification) -> Adapter | None:
        """The one that a rule has answer a request which names no variant."""
        rule = self._rule(request, context, found)
        named = (rule.force or rule.prefer) if rule is not None else None
        one = self.situation.adapters.get(named or "")
        return None if one is None else Adapter(one.model, one.digest, "rule")

    @property
    def adapters_by_rule(self) -> bool:
        """Whether some rule may name an adapter that is promoted."""
        named = {name for rule in self.routing.rules for name in (rule.force, rule.prefer)}
        return not named.isdisjoint(self.situation.adapters)

    def _on_its_side(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        found: Classification,
        rule: Rule | None,
    ) -> str:
        """The variant, or the adapter that answers this conversation in its place, if that can."""
        for one in context.adapters:
            if one.why == "share" and base_of(one.model) == name and one.model not in self.situation.rests:
                objection = self._objection(one.model, request, context, found, rule)
                return one.model if objection is None else name
        return name

    def able(self, request: ChatRequest, context: RequestContext, found: Classification) -> dict[str, float]:
        """Who can take the request at all, with their quality: for escalation and after failures."""
        rule = self._rule(request, context, found)
        able = {
            name: self._quality(name, found)
            for name in self.profile.variants
            if self._objection(name, request, context, found, rule) is None
        }
        small = {name: worth for name, worth in able.items() if rule is None or not self._too_large(name, rule)}
        return small or able

    def _too_large(self, name: str, rule: Rule) -> bool:
        return self.spec(name).parameters_b > (rule.at_most_billions or math.inf)

    def _with_doubts(
        self, objections: dict[str, str | None], rule: Rule | None, found: Classification, wish: Wish
    ) -> dict[str, str | None]:
        """With what speaks against a variant only while another can answer."""
        doubts = {
            name: self._doubt(name, rule, found, wish)
            for name, objection in objections.items()
            if objection is None
        }
        return objections | doubts if None in doubts.values() else objections

    def _doubt(self, name: str, rule: Rule | None, found: Classification, wish: Wish) -> str | None:
        """It has just failed, nothing that it says would be accepted, it is larger than the owner's rule wants, or
        nobody could tell where it is wrong, which it often is."""
        if name in self.situation.rests:
            return "has failed a moment ago"
        if self.judges.accepts_nothing(name):
            return "none of its answers would keep the target"
        if rule is not None and self._too_large(name, rule):
            return f"rule: {rule.name}"
        named = rule is not None and (
            rule.prefer_level or rule.at_most_billions or name in (rule.force, rule.prefer)
        )
        trained = any(one.base == name for one in self.situation.adapters.values())
        known = name in found.correct or self.judges.threshold(name) is not None
        if wish.kind == "level" or named or trained or known:
            return None
        if self.spec(name).quality.prior < self.routing.escalation.unjudged_quality:
            return "often wrong, and nobody can tell when yet"
        return None

    def _rule(self, request: ChatRequest, context: RequestContext, found: Classification) -> Rule | None:
        """The first whose condition holds."""
        variants, adapters = self.profile.variants, self.situation.adapters
        for rule in self.routing.rules:
            if any(name and name not in variants and name not in adapters for name in (rule.force, rule.prefer)):
                continue  # Of another profile, or an adapter that is not promoted.
            if holds(rule.when, request, context, found):
                return rule
        return None

    def _offer(self, name: str, found: Classification) -> Offer:
        spec = self.catalog.variants[name]
        seconds = self.situation.pace.seconds(name) + self.situation.loading.get(name, 0.0)
        return Offer(name, self._quality(name, found), spec.price.relative, seconds)

    def _quality(self, name: str, found: Classification) -> float:
        """P(right), as far as it is known."""
        prior = self.catalog.variants[name].quality.prior
        return blended(found.correct.get(name), prior, found.learned_from)

    def _within_reach(
        self, context: RequestContext, found: Classification, choices: list[tuple[str, str]]
    ) -> list[str]:
        """Who may be weighed for this device: up to its level, and who the rules would take anyway."""
        ceiling = LEVELS.index(self.routing.device_ceiling.get(context.device, "complex"))
        if ceiling == len(LEVELS) - 1:
            return list(self.profile.variants)
        small = {self.profile.levels[level] for level in LEVELS[: ceiling + 1]}
        return [name for name in self.profile.variants if name in small or name == choices[0][0]]

    def _by_worth(
        self, offers: list[Offer], preference: Preference, last: Turn | None, found: Classification
    ) -> list[tuple[str, str]]:
        """All of them, the best first."""
        exchange = self.routing.exchange[preference]
        bandit = self.situation.bandit
        if bandit.explores():
            drawn, why = choose(bandit.sampled(offers, found.task), exchange)
            return [(drawn.variant, f"exploring: {why}")]
        stays = last.variant if last is not None and last.task == found.task else None
        ranked: list[tuple[str, str]] = []
        left = list(offers)
        while left:
            best, why = choose(left, exchange, stays, self.routing.stickiness)
            ranked.append((best.variant, f"{preference}: {why}"))
            left.remove(best)
        return ranked

    def _preferences(
        self,
        request: ChatRequest,
        context: RequestContext,
        found: Classification,
        wish: Wish,
        preference: Preference,
        last: Turn | None,
    ) -> Iterator[tuple[str, str]]:
        """By the reference rules: variants in the order in which they are wanted, each once, with the reason."""
        seen: set[str] = set()
        wanted = list(self._wanted(context, found, wish, preference))
        same = wish.kind == "auto" and last is not None and last.task == found.task
        if same and last is not None and last.variant in self.profile.variants:
            stays, first = (self.catalog.variants[name].quality.prior for name in (last.variant, wanted[0][0]))
            if stays >= first:
                wanted = [(last.variant, f"the conversation stays with {last.variant}"), *wanted]
        for name, reason in wanted:
            if name not in seen:
                seen.add(name)
                yield name, reason

    def _wanted(
        self, context: RequestContext, found: Classification, wish: Wish, preference: Preference
    ) -> Iterator[tuple[str, str]]:
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
            if preference != "balanced":
                at = LEVELS.index(level)
                level = LEVELS[-1] if preference == "best" else LEVELS[max(0, at - 1)]
                why = f"{found.level} query, {preference}"
            if LEVELS.index(level) > LEVELS.index(ceiling):
                level, why = ceiling, f"{found.level} query, capped at {ceiling} for {context.device}"
        node = profile.nodes.get(context.device)
        if node is not None and level in node.levels:
            yield node.levels[level], f"{why}, from the {context.device}"
        # The chosen level first, then larger ones (they can do what it can), then smaller ones.
        at = LEVELS.index(level)
        yield profile.levels[level], why
        for other in (*LEVELS[at + 1 :], *reversed(LEVELS[:at])):
            yield profile.levels[other], f"{why}; {profile.levels[level]} is passed over"

    def _objection(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        found: Classification,
        rule: Rule | None = None,
    ) -> str | None:
        """Why `name` cannot take the request at all, or None."""
        base = base_of(name)
        spec, served = self.catalog.variants[base], self.profile.variants[base]
        if not may_ask(context.variants, name):
            return "may not be asked with this key"
        if base in self.situation.away:
            return f"its node, the {served.node}, is away"
        if rule is not None and not {name, base}.isdisjoint(rule.forbid):
            return f"rule: {rule.name}"
        if spec.engine == "remote" and not context.remote:
            return "is remote, which this request forbids"
        if found.task == "vision" and "vision" not in spec.capabilities:
            return "reads no images"
        if request.tools and request.tool_choice != "none" and "tools" not in spec.capabilities:
            return "calls no tools"
        if found.context_tokens > served.context:
            return f"context of {served.context} tokens is too short"
        if spec.languages == "English" and found.language not in (None, "en"):
            return f"speaks English only, and this is {found.language}"
        if context.max_cost_usd is not None:
            tokens = request.token_limit or self.situation.pace.usual_tokens
            usd = (found.context_tokens * spec.price.input + request.n * tokens * spec.price.output) / 1e6
            if usd > context.max_cost_usd:
                return f"would cost about {usd:.6f} USD, more than the {context.max_cost_usd:.6f} that were set"
        return None

    def _decision(
        self,
        name: str,
        reason: str,
        request: ChatRequest,
        context: RequestContext,
        found: Classification,
        candidates: list[Candidate],
        offers: list[Offer],
        preference: Preference,
    ) -> RouteDecision:
        named = {candidate.variant for candidate in candidates}
        expected = {offer.variant: offer for offer in offers}
        others = [Candidate(other, self._why_not(other)) for other in self.profile.variants if other not in named]
        considered = [
            replace(
                one,
                correct=round(offer.correct, 4),
                cost=offer.cost,
                seconds=round(offer.seconds, 3),
            )
            if (offer := expected.get(one.variant))
            else one
            for one in [*candidates, *others]
        ]
        spec = self.spec(name)
        return RouteDecision(
            variant=name,
            reason=reason,
            requested=request.model or AUTO,
            complexity=found.complexity,
            level=found.level,
            task=found.task,
            domain=found.domain,
            device=context.device,
            candidates=tuple(considered),
            parameters=dict(spec.sampling.model_dump()),
            preference=preference,
            think=self._thinks(name, found, preference),
            escalation_threshold=self.judges.threshold(name),
            arm=arm(name, context, tried(self.situation.adapters)),
        )

    def _thinks(self, name: str, found: Classification, preference: Preference) -> bool | None:
        """Whether it is asked to think; None where that is not for us to say. A guess is only good enough where
        time does not count."""
        if "thinking" not in self.spec(name).capabilities:
            return None
        return found.think and (preference == "best" or name + THINKING in found.correct)

    def _why_not(self, name: str) -> str:
        return "has failed a moment ago" if name in self.situation.rests else "not preferred for this query"

    def _nobody(self, passed: list[Candidate], found: Classification) -> ChatError:
        reasons = "; ".join(f"{c.variant}: {c.passed_over}" for c in passed)
        if found.task == "vision":
            return invalid(
                f"The request holds an image and the profile {self.profile.name!r} has no variant that reads "
                f"images ({reasons}). Send text, or start a profile with a vision variant.",
                param="messages",
                code="unsupported_modality",
            )
        if len(passed) == len(self.profile.variants) and all("context" in (c.passed_over or "") for c in passed):
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


def _once(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Each variant once, as it was first passed over."""
    return list({candidate.variant: candidate for candidate in reversed(list(candidates))}.values())[::-1]
