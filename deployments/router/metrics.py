"""What the Router tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ray.serve.metrics import Counter, Histogram

from configs.adapters import base_of
from deployments.ledger.record import QueryRecord
from deployments.metrics import Gauge
from deployments.router.decision import Attempt, RouteDecision

SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]
WORK_SECONDS = [5e-5, 1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4, 3.5e-4, 4e-4, 5e-4, 7e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05]
TOKEN_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]


class RouterMetrics:
    """Of one Router."""

    def __init__(self) -> None:
        self._decisions = Counter(
            "groupqwen_route_decisions", "Decisions by variant and task.", ("variant", "task")
        )
        self._moves = Counter(
            "groupqwen_route_moves",
            "Variants that another took over from, by cause; escalated: it was unsure.",
            ("variant", "outcome"),
        )
        self._lookups = Counter("groupqwen_cache_lookups", "Cache outcomes by kind.", ("outcome",))
        self._requests = Counter(
            "groupqwen_requests",
            "Requests by who answered and the HTTP status.",
            ("variant", "status"),
        )
        self._of_adapters = Counter(
            "groupqwen_adapter_requests",
            "Requests whose base has an adapter on trial, and those that an adapter has answered, by arm: base, "
            "adapter; none: it was asked for.",
            ("variant", "arm"),
        )
        self._tokens = Counter(
            "groupqwen_tokens", "Tokens of answers, by kind: prompt, cached, completion.", ("variant", "kind")
        )
        # (What comes from the cache in milliseconds says nothing of the variant that once gave it.)
        self._ttft = Histogram("groupqwen_ttft_seconds", "Time to first token.", SECONDS, ("variant", "cache"))
        self._tpot = Histogram(
            "groupqwen_tpot_seconds", "Time of each further token.", TOKEN_SECONDS, ("variant", "cache")
        )
        self._latency = Histogram(
            "groupqwen_latency_seconds", "Time of the whole answer.", SECONDS, ("variant", "cache")
        )
        self._cost = Counter("groupqwen_cost_usd", "What answers cost, at the catalog's prices.", ("variant",))
        self._saved = Counter("groupqwen_saved_usd", "What the largest variant would have cost more.")
        self._energy = Counter("groupqwen_energy_wh", "What machines drew for answers.", ("variant",))
        self._work = Histogram(
            "groupqwen_ledger_work_seconds",
            "What a request's row takes of its time, from begin to end; by clock: wall, cpu.",
            WORK_SECONDS,
            ("clock",),
        )
        self._resting = Gauge(
            "groupqwen_variant_resting", "1 for a variant that is left alone since it failed.", ("variant",)
        )

    def looked_up(self, outcome: str) -> None:
        """A lookup in the cache has ended."""
        self._lookups.inc(tags={"outcome": outcome})

    def decided(self, decision: RouteDecision, attempts: Iterable[Attempt]) -> None:
        """A fresh answer has ended; `attempts`: those that another took over from."""
        self._decisions.inc(tags={"variant": decision.variant, "task": decision.task or ""})
        for attempt in attempts:
            self._moves.inc(tags={"variant": attempt.variant, "outcome": attempt.outcome})

    def ended(self, record: QueryRecord) -> None:
        """A request has ended."""
        tags = {"variant": record.variant or "none"}
        self._requests.inc(tags={**tags, "status": str(record.status)})
        if not record.variant:
            return
        arm = record.decision.arm if record.decision else None
        if arm is not None or base_of(record.variant) != record.variant:
            self._of_adapters.inc(tags={**tags, "arm": arm or "none"})
        counted = {
            "prompt": record.prompt_tokens,
            "cached": record.cached_tokens,
            "completion": record.completion_tokens,
        }
        for kind, tokens in counted.items():
            if tokens:
                self._tokens.inc(tokens, {**tags, "kind": kind})
        if record.cost_usd:
            self._cost.inc(record.cost_usd, tags)
        if record.saved_usd > 0:
            self._saved.inc(record.saved_usd)
        if record.energy_wh:
            self._energy.inc(record.energy_wh, tags)
        timed = {**tags, "cache": record.cache}
        self._latency.observe(record.latency_ms / 1e3, timed)
        if record.ttft_ms is not None:
            self._ttft.observe(record.ttft_ms / 1e3, timed)
            if record.completion_tokens > 1:
                further = (record.latency_ms - record.ttft_ms) / 1e3 / (record.completion_tokens - 1)
                self._tpot.observe(max(0.0, further), timed)

    def wrote(self, wall: float, cpu: float) -> None:
        """A request's row is on its way, which took so many seconds."""
        for clock, seconds in (("wall", wall), ("cpu", cpu)):
            self._work.observe(seconds, {"clock": clock})

    def resting(self, rests: Mapping[str, bool]) -> None:
        """Which variants are left alone now."""
        for variant, so in rests.items():
            self._resting.set(float(so), {"variant": variant})
