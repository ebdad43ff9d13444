"""The cache's promises as Prometheus sees them, through Ray."""

from __future__ import annotations

from deployments.cache.entries import Room
from deployments.cache.experience import Experience
from deployments.metrics import Gauge


class CacheMetrics:
    """Of one replica; all replicas say the same, soon."""

    def __init__(self) -> None:
        self._threshold = Gauge(
            "groupqwen_cache_threshold", "Least P(same answer) that is served; 2 where nothing is.", ("partition",)
        )
        self._per_request = Gauge(
            "groupqwen_cache_wrong_per_request_bound",
            "Upper bound (95 %) on wrong answers per request.",
            ("partition",),
        )
        self._per_hit = Gauge(
            "groupqwen_cache_wrong_per_hit_bound", "Upper bound (95 %) on wrong answers per hit.", ("partition",)
        )
        self._limit = Gauge(
            "groupqwen_cache_wrong_per_request_limit", "What routing.yaml promises: wrong answers per request."
        )
        self._checks = Gauge("groupqwen_cache_checks", "Hits and misses that were checked.", ("partition",))
        self._entries = Gauge("groupqwen_cache_entries", "Answers that are kept.")
        self._bytes = Gauge("groupqwen_cache_bytes", "What they take, roughly.")

    def show(self, experience: Experience, limit: float) -> None:
        """What is in force, partition by partition, against what the owner has allowed."""
        self._limit.set(limit)
        for name, (checks, now) in experience.report().items():
            tags = {"partition": name}
            self._threshold.set(2.0 if now.threshold is None else now.threshold, tags)
            self._per_request.set(now.per_request, tags)
            self._per_hit.set(now.per_hit, tags)
            self._checks.set(checks, tags)

    def room(self, room: Room) -> None:
        """How much is kept."""
        self._entries.set(room.entries)
        self._bytes.set(room.size)
