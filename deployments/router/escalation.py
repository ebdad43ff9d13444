"""Whether an answer that has begun is good enough, or a larger variant should take over. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from configs.escalation import EscalationRules
from deployments.router.calibration import Calibrated, Calibration
from deployments.router.confidence import Confidence

Verdict = Literal["wait", "accept", "escalate"]


@dataclass(frozen=True)
class Judge:
    """Judges one variant's answers. `thresholds`: the least P(right) at the commit point, and of a whole answer.
    `hopeless`: by checkpoint, the P(right) from which an answer has not recovered before."""

    calibrated: Calibrated
    family: str | None
    prior: float | None
    commit: int
    thresholds: tuple[float, float]
    hopeless: Mapping[int, float]

    def verdict(self, seen: Confidence, *, whole: bool) -> tuple[Verdict, float | None]:
        """What to do now, and P(right) as far as it is known."""
        count = len(seen.answer)
        signals = seen.answer.signals()
        if signals is None:
            # Nothing can be said of an answer without a token; a whole one is left to the larger variant.
            return ("escalate" if whole else "wait"), None
        if whole:
            found = self.calibrated.probability(signals, self.family, self.prior, whole=True)
            return ("accept" if found >= self.thresholds[1] else "escalate"), found
        if count < min(self.hopeless, default=self.commit) and count < self.commit:
            return "wait", None
        found = self.calibrated.probability(signals, self.family, self.prior, whole=False)
        if count >= self.commit:
            return ("accept" if found >= self.thresholds[0] else "escalate"), found
        passed = max((tokens for tokens in self.hopeless if tokens <= count), default=None)
        given_up = passed is not None and found < self.hopeless[passed]
        return ("escalate" if given_up else "wait"), found


@dataclass(frozen=True)
class Warned:
    """What `groupqwen status` and the decision say where nothing can be promised."""

    variant: str
    reason: str


class Judges:
    """One for each variant that has a calibration and a threshold that accepts something."""

    def __init__(self, calibration: Calibration, rules: EscalationRules) -> None:
        self.rules = rules
        self.warnings: list[Warned] = []
        self._known: dict[str, tuple[Calibrated, int, tuple[float, float], dict[int, float]]] = {}
        if not rules.enabled:
            return
        for name, calibrated in calibration.variants.items():
            self._prepare(name, calibrated)

    def _prepare(self, name: str, calibrated: Calibrated) -> None:
        points = [head.tokens for head in calibrated.heads]
        # Short answers leave no labels at late checkpoints: the latest that has some is the commit point.
        commits = [tokens for tokens in points if tokens is not None and tokens <= self.rules.commit_tokens]
        whole = calibrated.threshold(self.rules.target, None)
        early = calibrated.threshold(self.rules.target, commits[-1]) if commits else whole
        if whole.never or early.never:
            self.warnings.append(
                Warned(
                    name,
                    f"{whole.questions} labelled answers do not show that any of its answers keep the target with "
                    f"{whole.confidence:.0%} confidence: all go to a larger variant",
                )
            )
        commit = commits[-1] if commits else self.rules.commit_tokens
        at = points.index(commits[-1]) if commits else len(points) - 1
        hopeless = {
            tokens: calibrated.hopeless(points.index(tokens), at, early.value)
            for tokens in commits[:-1]
            if not math.isinf(early.value)
        }
        self._known[name] = calibrated, commit, (early.value, whole.value), hopeless

    def threshold(self, variant: str) -> float | None:
        """The least P(right) at its commit point; None where it is not judged."""
        known = self._known.get(variant)
        # (JSON has no infinity.)
        return None if known is None else min(1.0, known[2][0])

    def accepts_nothing(self, variant: str) -> bool:
        """Whether asking it first would only cost time."""
        known = self._known.get(variant)
        return known is not None and all(math.isinf(value) for value in known[2])

    def of(self, variant: str, family: str | None, prior: float | None) -> Judge | None:
        """None for a variant whose confidence means nothing yet."""
        known = self._known.get(variant)
        if known is None:
            return None
        calibrated, commit, thresholds, hopeless = known
        return Judge(calibrated, family, prior, commit, thresholds, hopeless)
