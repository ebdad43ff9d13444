"""Prometheus' text format, and what two looks at its counters say of the time between. Pure.

Every replica counts from zero when it starts, and its series end with it. So increments are summed up series by
series, and what is read of them later never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

EXPORTED = "ray_"
OURS = "groupqwen_"
LABELS = frozenset({"variant", "outcome", "kind", "cache", "cause", "le"})
"""By which anything is shown. The others say which process has counted, and are summed over."""

Labels = frozenset[tuple[str, str]]
Series = tuple[str, Labels]
Totals = Mapping[Series, float]


class Scraped(NamedTuple):
    """One look, each series by all of its labels. Histograms are counters, too."""

    counters: dict[Series, float]
    gauges: dict[Series, float]


def read_metrics(text: str) -> Scraped:
    """What is ours, by the names that the code gives it. Raises `ValueError` for what is no such text."""
    starts = (f"{EXPORTED}{OURS}", f"# TYPE {EXPORTED}{OURS}")
    # Most of what is exported is Serve's: a hundred times more than what is read here.
    ours = "".join(f"{line}\n" for line in text.split("\n") if line.startswith(starts))
    found = Scraped({}, {})
    for family in text_string_to_metric_families(ours):
        kind = found.gauges if family.type == "gauge" else found.counters
        for sample in family.samples:
            bound = float(sample.labels.get("le", 0.0))
            if math.isfinite(sample.value) and not math.isnan(bound):
                kind[sample.name.removeprefix(EXPORTED), frozenset(sample.labels.items())] = sample.value
    return found


class Counters:
    """Adds up what counters say, over restarts of whoever counts."""

    def __init__(self) -> None:
        self._last: dict[Series, float] = {}
        self._totals: dict[Series, float] = {}

    def add(self, now: Mapping[Series, float]) -> Totals:
        """What was counted by now. A value below the one before was counted from zero again, and a new series from
        zero; one that is missing for a while has counted nothing meanwhile, until it says otherwise."""
        for series, value in now.items():
            before = self._last.get(series, 0.0)
            name, labels = series
            shown = name, frozenset(label for label in labels if label[0] in LABELS)
            self._totals[shown] = self._totals.get(shown, 0.0) + (value - before if value >= before else value)
            self._last[series] = value
        return dict(self._totals)


@dataclass(frozen=True)
class Point:
    """What was counted by `at` (seconds)."""

    at: float
    totals: Totals = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """From one point to a later one."""

    first: Point
    last: Point

    @property
    def seconds(self) -> float:
        return self.last.at - self.first.at

    def increase(self, name: str, **wanted: str) -> float | None:
        """How much was counted of the series with these labels; None where nobody counts such a thing."""
        found = list(self._matching(name, wanted))
        if not found and not any(series[0] == name for series in self.last.totals):
            return None
        return sum(increase for _, increase in found)

    def by(self, name: str, label: str, **wanted: str) -> dict[str, float]:
        """The increases by one label's values; what has none of it is left out."""
        found: dict[str, float] = {}
        for labels, increase in self._matching(name, wanted):
            if label in labels:
                found[labels[label]] = found.get(labels[label], 0.0) + increase
        return found

    def rate(self, name: str, **wanted: str) -> float | None:
        """A second's increase; None where nothing can be said of it."""
        increase = self.increase(name, **wanted)
        return None if increase is None or self.seconds <= 0 else increase / self.seconds

    def quantiles(
        self, name: str, shares: tuple[float, ...], without: frozenset[str], **wanted: str
    ) -> tuple[float | None, ...]:
        """Of what a histogram has observed, without some cache outcomes; each None where that is nothing."""
        buckets: dict[float, float] = {}
        for labels, increase in self._matching(f"{name}_bucket", wanted):
            if labels.get("cache") not in without and "le" in labels:
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + increase
        return tuple(quantile(buckets, share) for share in shares)

    def _matching(self, name: str, wanted: Mapping[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        asked = frozenset(wanted.items())
        for series, total in self.last.totals.items():
            if series[0] == name and asked <= series[1]:
                yield dict(series[1]), total - self.first.totals.get(series, 0.0)


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """From how many observations were at most each bound, as Prometheus' `histogram_quantile` reckons: they lie
    evenly in a bucket, and beyond the last finite bound at that bound. None without observations."""
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound in sorted(buckets):
        # (Series that have begun at different times may add up to less in a later bucket.)
        counted = max(below, buckets[bound])
        if counted >= rank and counted > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (counted - below)
        if not math.isinf(bound):
            lower = bound
        below = counted
    return lower
