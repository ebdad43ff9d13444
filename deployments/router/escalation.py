"""Whether an answer that has begun is good enough, or a larger variant should take over. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from configs.escalation import EscalationRules
from deployments.router.bounds import Threshold
from deployments.router.calibration import Calibrated, Calibration, joint_threshold
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
    only_whole: bool = False
    """Whether there are no labels of parts of answers: then nothing streams before it is whole."""

    def verdict(self, seen: Confidence, *, whole: bool, streams: bool = True) -> tuple[Verdict, float | None]:
        """What to do now, and P(right) as far as it is known. The threshold of answers that stream was found with
        short ones judged whole, so it is theirs too."""
        count = len(seen.answer)
        signals = seen.answer.signals()
        if signals is None:
            # Nothing can be said of an answer without a token; a whole one is left to the larger variant.
            return ("escalate" if whole else "wait"), None
        if whole:
            found = self.calibrated.probability(signals, self.family, self.prior, whole=True)
            return ("accept" if found >= self.thresholds[0 if streams else 1] else "escalate"), found
        if self.only_whole:
            return "wait", None
        if count < min(self.hopeless, default=self.commit) and count < self.commit:
            return "wait", None
        found = self.calibrated.probability(signals, self.family, self.prior, whole=False)
        if count >= self.commit:
            return ("accept" if found >= self.thresholds[0] else "escalate"), found
        passed = max((tokens for tokens in self.hopeless if tokens <= count), default=None)
        given_up = passed is not None and found < self.hopeless[passed]
        return ("escalate" if given_up else "wait"), found


class Judges:
    """One for each variant that has a calibration and a threshold that accepts something."""

    def __init__(
        self, calibration: Calibration, rules: EscalationRules, worth: Mapping[str, float] | None = None
    ) -> None:
        """`worth`: of the variants, by which the smaller are told from the larger."""
        worth = worth or {}
        self.rules = rules
        self.warnings: list[str] = []
        self.promised: Threshold | None = None
        self._known: dict[str, tuple[Calibrated, int, tuple[float, float], dict[int, float]]] = {}
        if not rules.enabled or not calibration.variants:
            return
        smallest_first = sorted(calibration.variants.items(), key=lambda item: worth.get(item[0], 0.0))
        commits = {name: _commit(one, rules.commit_tokens) for name, one in smallest_first}
        # Each answer is judged once by the part that is held back, and by the whole where it is short or not
        # streamed.
        early = joint_threshold(
            [(one.evidence.scores[commits[name]], one.evidence) for name, one in smallest_first], rules.target
        )
        whole = joint_threshold(
            [(one.evidence.scores[-1], one.evidence) for _, one in smallest_first], rules.target
        )
        self.promised = early
        for name, one in smallest_first:
            at = commits[name]
            hopeless = {
                head.tokens: one.hopeless(index, at, early.value)
                for index, head in enumerate(one.heads[:at])
                if head.tokens is not None and not early.never
            }
            commit = one.heads[at].tokens or rules.commit_tokens
            self._known[name] = one, commit, (early.value, whole.value), hopeless
        if early.never or whole.never:
            self.warnings.append(
                f"{early.questions} labelled answers do not show that any answer of {', '.join(self._known)} "
                f"keeps the target with {early.confidence:.0%} confidence: a larger variant answers instead. More "
                "labels, or a lower target, would change that"
            )

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
        only_whole = all(head.tokens is None for head in calibrated.heads)
        return Judge(calibrated, family, prior, commit, thresholds, hopeless, only_whole)


def _commit(calibrated: Calibrated, wanted: int) -> int:
    """The head that judges what is held back: the latest checkpoint up to what is wanted that has labels."""
    points = [head.tokens for head in calibrated.heads]
    there = [index for index, tokens in enumerate(points) if tokens is not None and tokens <= wanted]
    return there[-1] if there else len(points) - 1
