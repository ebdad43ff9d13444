"""How one request may be answered: what `Answering` needs to know, from the rules, the judges and the variants.
Pure."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from openai.types.chat import ChatCompletionChunk

from configs.adapters import base_of
from configs.catalog import Catalog
from configs.escalation import Cause, FallbackRules
from deployments.classifier.rules import Classification
from deployments.contract import ChatRequest, RawPromptRequest, RequestContext
from deployments.router.answering import Committed, Plan, with_logprobs
from deployments.router.breakers import Breakers
from deployments.router.decision import Attempt, RouteDecision
from deployments.router.escalation import Judge
from deployments.router.failures import next_in_chain
from deployments.router.rules import Rules
from deployments.router.wishes import resolve_model

NOT_THE_VARIANTS: frozenset[Cause] = frozenset({"busy", "context", "refused", "not_ready", "away"})
"""Causes that say nothing against asking a variant again."""


class Generate(Protocol):
    """A variant's answer."""

    def __call__(
        self, variant: str, request: ChatRequest, context: RequestContext
    ) -> AsyncGenerator[list[ChatCompletionChunk], None]: ...


@dataclass(frozen=True)
class Asking:
    """One request on its way: who is asked, and with what."""

    rules: Rules
    generate: Generate
    breakers: Breakers
    awake: Callable[[], Awaitable[list[str]]]
    request: ChatRequest
    context: RequestContext
    found: Classification
    decision: RouteDecision

    def plan(self) -> Plan:
        """The `Plan` of this request."""
        return Plan(
            request=self.request,
            ask=self.ask,
            judge=self.judge,
            larger=self.larger,
            instead=self.instead,
            failed=self._failed,
            fallback=self._fallback,
            escalation=self.rules.routing.escalation,
            continues=self._continues,
            prompt_tokens=self.found.context_tokens,
        )

    @property
    def _fallback(self) -> FallbackRules:
        """The owner's, within the time that the client waits for a beginning."""
        fallback, within = self.rules.routing.fallback, self.context.begin_within
        if within is None or within >= fallback.first_token_seconds:
            return fallback
        return fallback.model_copy(update={"first_token_seconds": within})

    @property
    def named(self) -> bool:
        """Whether one variant was asked for, or forced by a rule, which then answers, or nobody."""
        return (
            self.decision.forced
            or resolve_model(self.request.model, self.rules.profile, self.rules.routing).kind == "variant"
        )

    @property
    def _offers_tools(self) -> bool:
        return bool(self.request.tools) and self.request.tool_choice != "none"

    def ask(self, variant: str, request: ChatRequest) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """Ask one variant; one that will be judged is asked for what its confidence is made of."""
        thinks = self.decision.think and "thinking" in self.rules.spec(variant).capabilities
        if thinks and "enable_thinking" not in request.chat_template_kwargs:
            kwargs = {**request.chat_template_kwargs, "enable_thinking": True}
            request = request.model_copy(update={"chat_template_kwargs": kwargs})
        judged = self.judge(variant) is not None
        # Each variant that is asked in turn has the time anew, unless the client has said how long it waits.
        within = self._fallback.first_token_seconds if self.context.begin_within is None else self._left()
        context = replace(self.context, begin_within=within)
        return self.generate(variant, with_logprobs(request) if judged else request, context)

    def _left(self) -> float:
        """Of the seconds that the client waits for a beginning."""
        assert self.context.begin_within is not None
        return max(0.0, self.context.begin_within - (time.time() - self.context.received))

    def judge(self, variant: str) -> Judge | None:
        """None where its confidence means nothing, or nobody may take over."""
        request = self.request
        if self.named or request.n > 1 or self._offers_tools or isinstance(request, RawPromptRequest):
            return None
        if self.larger(variant) is None:
            return None
        prior = self.found.correct.get(variant)
        return self.rules.judges.of(variant, self.found.task, prior)

    def larger(self, variant: str) -> str | None:
        """The next by quality that can take the request."""
        able = self.rules.able(self.request, self.context, self.found)
        priors = {name: self.rules.spec(name).quality.prior for name in able}
        own = self.rules.spec(variant).quality.prior
        above = [
            name
            for name in able
            if priors[name] > own and not self.breakers.rests(name) and not self.rules.judges.accepts_nothing(name)
        ]
        return min(above, key=lambda name: priors[name], default=None)

    async def instead(self, cause: Cause, variant: str, tried: dict[str, int]) -> str | None:
        """Who is asked after a failure."""
        able = self.rules.able(self.request, self.context, self.found)
        base = base_of(variant)
        if base != variant and not self.named and base in able and not tried.get(base):
            return base  # (Whatever ails the adapter: without it the variant is the one that was decided for.)
        chain = self.rules.routing.fallback.chain(cause)
        if self.named:
            chain = tuple(step for step in chain if step in ("same", "awake"))
        if not chain:
            return None
        contexts = {name: served.context for name, served in self.rules.profile.variants.items()}
        awake = await self.awake() if "awake" in chain else []
        return next_in_chain(chain, variant, able, contexts, awake, tried, self.breakers.rests)

    def _failed(self, variant: str, cause: Cause) -> None:
        if cause not in NOT_THE_VARIANTS:
            self.breakers.failed(variant, self.rules.routing.fallback.cool_down_seconds, cause)

    def _continues(self, variant: str) -> bool:
        """Whether it can go on with what another has begun: engines whose template is ours to fill."""
        request = self.request
        raw = isinstance(request, RawPromptRequest)
        structured = (request.response_format or {"type": "text"}).get("type") != "text"
        plain = not (raw or structured or self._offers_tools or request.n > 1)
        return plain and self.rules.spec(variant).engine != "remote"


def committed(decision: RouteDecision, found: Committed, catalog: Catalog) -> RouteDecision:
    """The decision with what became of it."""
    return replace(
        decision,
        variant=found.variant,
        reason=f"{decision.reason}; {found.why}" if found.why else decision.reason,
        parameters=dict(catalog.variants[base_of(found.variant)].sampling.model_dump()),
        attempts=found.attempts,
    )


def ended(decision: RouteDecision, attempts: tuple[Attempt, ...]) -> RouteDecision:
    """The decision with everyone who was asked, when all is over."""
    return replace(decision, attempts=attempts) if attempts else decision
