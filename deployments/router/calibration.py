"""P(this answer is right), from how sure the variant was of its tokens: what `calibrating.py` has learned of each
variant and task family. Reads one JSON file; needs numpy and nothing else. Pure.

The file holds the evidence too (scores of answers that were not learned from, and whether they were right), so
that the owner's target can change without new labels: the threshold follows from both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.escalation import Target
from deployments.router.bounds import Threshold, accepted_wrong, quality
from deployments.router.confidence import SIGNALS, Signals

VERSION = 1
CHECKPOINTS = (8, 16, 32, 64)
"""Numbers of tokens after which a part of an answer is judged; None stands for the whole answer."""

Values = npt.NDArray[np.float64]


class CalibrationError(ValueError):
    """A file that is no calibration, or one of another version."""


@dataclass(frozen=True)
class Head:
    """Answers of `tokens` tokens, or whole ones (None). `weights`: those of `features`; `knots`: raw scores in
    ascending order and the probabilities that belong to them."""

    tokens: int | None
    bias: float
    weights: tuple[float, ...]
    knots: tuple[tuple[float, ...], tuple[float, ...]]

    def probability(self, values: Sequence[float]) -> float:
        """Of `features`."""
        score = self.bias + sum(weight * value for weight, value in zip(self.weights, values, strict=True))
        return float(np.interp(score, *self.knots))


@dataclass(frozen=True)
class Evidence:
    """Labelled answers of one variant. `scores`: heads × answers, by models that have not seen the answer; where
    an answer is shorter than a checkpoint, the whole answer's. `largest_ok`: whether the largest variant was
    right."""

    scores: Values
    ok: Values
    largest_ok: Values
    questions: str = ""
    """A fingerprint of the questions, in their order."""


@dataclass(frozen=True)
class Calibrated:
    """One variant. `families`: task families that it has labels of."""

    families: tuple[str, ...]
    heads: tuple[Head, ...]
    evidence: Evidence

    def probability(self, signals: Signals, family: str | None, prior: float | None, *, whole: bool) -> float:
        """P(right), of a whole answer, or of one that has begun. `prior`: what was thought of the variant before
        it answered."""
        return self.heads[self.head_for(signals.tokens, whole=whole)].probability(
            features(signals.values(), family, self.families, prior)
        )

    def head_for(self, tokens: int, *, whole: bool) -> int:
        """Which head judges so many tokens: that of the last checkpoint that they have passed."""
        if whole:
            return len(self.heads) - 1
        passed = [
            index for index, head in enumerate(self.heads) if head.tokens is not None and head.tokens <= tokens
        ]
        return passed[-1] if passed else 0

    def hopeless(self, index: int, at: int, threshold: float, lost: float = 0.02) -> float:
        """At the earlier head `index`, the score below which no more than the share `lost` of the answers that are
        accepted at head `at` has ever been: what is below it does not recover."""
        kept = self.evidence.scores[index][self.evidence.scores[at] >= threshold]
        return float(np.quantile(kept, lost)) if len(kept) >= 20 else -math.inf


@dataclass(frozen=True)
class Calibration:
    """All variants that have labels. `about`: what was learned from, and how good it was."""

    variants: Mapping[str, Calibrated] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file; it is there whole or not at all."""
        staged = path.with_suffix(".tmp")
        staged.write_text(json.dumps(self.as_dict()))
        staged.replace(path)

    def only(self, names: Container[str]) -> Calibration:
        """Without variants that are not served."""
        return Calibration({name: one for name, one in self.variants.items() if name in names}, self.about)

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "version": VERSION,
            "signals": list(SIGNALS),
            "about": dict(self.about),
            "variants": {name: _as_dict(one) for name, one in self.variants.items()},
        }


def features(
    values: Sequence[float], family: str | None, families: Sequence[str], prior: float | None
) -> list[float]:
    """What a head weighs: the signals, the prior's log-odds, and both once more for the answer's own family, so
    that a family with many labels has a calibration of its own, and one with few leans on the others."""
    shared = [*values, 0.0 if prior is None else log_odds(prior) / 3]
    found = [*shared]
    for known in families:
        found += [1.0, *shared] if known == family else [0.0] * (len(shared) + 1)
    return found


def log_odds(probability: float) -> float:
    """Bounded, so that certainty stays finite."""
    bounded = min(0.999, max(0.001, probability))
    return math.log(bounded / (1 - bounded))


def load_calibration(path: Path) -> Calibration:
    """Raises `CalibrationError`, and `OSError` where there is no file."""
    try:
        return _calibration(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CalibrationError(f"{path} is no calibration: {error}") from error


def _calibration(data: Mapping[str, Any]) -> Calibration:
    if data["version"] != VERSION or data["signals"] != list(SIGNALS):
        raise CalibrationError(f"it is of version {data['version']}, and this reads {VERSION}")
    return Calibration({name: _calibrated(one) for name, one in data["variants"].items()}, data["about"])


def _as_dict(one: Calibrated) -> dict[str, Any]:
    return {
        "families": list(one.families),
        "heads": [
            {
                "tokens": head.tokens,
                "bias": head.bias,
                "weights": list(head.weights),
                "knots": [list(side) for side in head.knots],
            }
            for head in one.heads
        ],
        "evidence": {
            "scores": one.evidence.scores.round(5).tolist(),
            "ok": one.evidence.ok.tolist(),
            "largest_ok": one.evidence.largest_ok.tolist(),
            "questions": one.evidence.questions,
        },
    }


def _calibrated(data: Mapping[str, Any]) -> Calibrated:
    families = tuple(str(name) for name in data["families"])
    size = len(features([0.0] * len(SIGNALS), None, families, None))
    heads = []
    for head in data["heads"]:
        xs, ys = (tuple(float(value) for value in side) for side in head["knots"])
        weights = tuple(float(weight) for weight in head["weights"])
        tokens = None if head["tokens"] is None else int(head["tokens"])
        if len(weights) != size or not xs or len(xs) != len(ys) or list(xs) != sorted(xs):
            raise CalibrationError("a head's weights or knots do not fit")
        heads.append(Head(tokens, float(head["bias"]), weights, (xs, ys)))
    if not heads or heads[-1].tokens is not None:
        raise CalibrationError("no head judges whole answers")
    kept = data["evidence"]
    scores = np.array(kept["scores"], float).reshape(len(heads), -1)
    ok, largest_ok = np.array(kept["ok"], float), np.array(kept["largest_ok"], float)
    if not scores.shape[1] == len(ok) == len(largest_ok):
        raise CalibrationError("its evidence does not fit together")
    return Calibrated(families, tuple(heads), Evidence(scores, ok, largest_ok, str(kept["questions"])))


def joint_threshold(evidence: Sequence[tuple[Values, Evidence]], target: Target) -> Threshold:
    """The least P(right) with which answers are accepted, the same for all variants. `evidence`: of each, the
    smallest first, the scores that decide. One that follows from all must hold wherever a request begins: the
    strictest of them. Variants whose labels are of other questions are looked at each by itself."""
    alike = len({one.questions for _, one in evidence}) == 1
    begins = range(len(evidence)) if alike else range(0)
    chains = [evidence[start:] for start in begins] or [[one] for one in evidence]
    return max((_threshold(chain, target) for chain in chains), key=lambda found: found.value)


def _threshold(chain: Sequence[tuple[Values, Evidence]], target: Target) -> Threshold:
    # Logs are sorted by what they hold, and a bet that is looked at after every answer wants them in any order.
    order = np.random.default_rng(0).permutation(len(chain[0][1].ok))
    scores = np.array([scores[order] for scores, _ in chain])
    ok = np.array([one.ok[order] for _, one in chain])
    if target.accepted_wrong is not None:
        return accepted_wrong(scores, ok, target.accepted_wrong, target.confidence)
    assert target.quality is not None
    return quality(scores, ok, chain[0][1].largest_ok[order], target.quality, target.confidence)


@lru_cache(maxsize=1)
def nothing() -> Calibration:
    """Where nothing was labelled yet: nobody's confidence means anything."""
    return Calibration()
