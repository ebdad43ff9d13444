"""Replays cascades on a log, and everything else that one could do with the same models, each question held out:
neither routers nor calibrations nor thresholds have seen it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from benchmarks.machine import console
from configs.escalation import Target
from configs.routing import load_routing
from deployments.classifier.rules import classify
from deployments.classifier.training import (
    Outcomes,
    by_text,
    calibration,
    count_terms,
    held_out_scores,
    scores_for,
    strength_for,
)
from deployments.router.bounds import Threshold, accepted_wrong, quality
from deployments.router.calibrating import calibrate
from deployments.router.calibration import Calibrated, joint_threshold, log_odds
from groupqwen.answer_log import Log

FOLDS, INNER_FOLDS, SEED = 5, 3, 0

Rows = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Policy:
    """For each question: `tier`, who answered last; `asked`: tiers × questions, who was asked at all."""

    name: str
    tier: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]

    def of(self, log: Log, columns: dict[str, Values]) -> Values:
        """The sum of a column over who was asked."""
        each = [np.where(self.asked[k], columns[name], 0) for k, name in enumerate(log.models)]
        return np.asarray(np.sum(each, axis=0))

    def ok(self, log: Log) -> Values:
        """Whether the answer that was given is right."""
        right = np.array([log.ok[name] for name in log.models])
        return np.asarray(right[self.tier, np.arange(len(self.tier))])


def direct(name: str, tier: npt.NDArray[np.int64], tiers: int) -> Policy:
    """One tier is asked, and answers."""
    return Policy(name, tier, np.arange(tiers)[:, None] == tier[None, :])


@dataclass
class Held:
    """What is known of held-out questions. `prior`: P(right) before an answer, tiers × questions; `sure`: after
    it; `sure_alone`: the same without the prior; `raw`: uncalibrated."""

    prior: Values
    sure: Values
    sure_alone: Values
    raw: Values


def replay(log: Log, target: Target, learns: bool) -> tuple[Held, list[Policy], list[Threshold]]:
    """All policies, each question held out once."""
    tiers, count = len(log.models), len(log.questions)
    shape = (tiers, count)
    held = Held(np.full(shape, 0.5), np.full(shape, 0.5), np.full(shape, 0.5), np.zeros(shape))
    names = ["cascade", "learned + cascade"] if learns else ["cascade"]
    chosen = {name: (np.zeros(count, int), np.zeros(shape, bool)) for name in [*names, "learned"]}
    promises: list[Threshold] = []
    parts = list(KFold(FOLDS, shuffle=True, random_state=SEED).split(np.zeros(count)))
    for train, test in track(parts, "replaying", console=console):
        train_prior, test_prior = _priors(log, train, test) if learns else (None, None)
        fold = Fold(log, target, train, test)
        alone = fold.cascade(None, None)
        held.sure_alone[:, test], held.raw[:, test] = alone.sure, alone.raw
        promises += alone.thresholds
        found = {"cascade": alone}
        if train_prior is not None and test_prior is not None:
            held.prior[:, test] = test_prior
            both = fold.cascade(train_prior, test_prior)
            held.sure[:, test] = both.sure
            found["learned + cascade"] = both
            chosen["learned"][0][test] = fold.routed(train_prior, test_prior)
        for name, one in found.items():
            chosen[name][0][test] = one.tier
            chosen[name][1][:, test] = one.asked
    policies = [Policy(name, *chosen[name]) for name in names]
    if learns:
        policies.insert(0, direct("learned", chosen["learned"][0], tiers))
    return held, [*_controls(log, policies), *policies, _oracle(log)], promises


@dataclass(frozen=True)
class Cascaded:
    """Of one fold's held-out questions."""

    tier: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    sure: Values
    raw: Values
    thresholds: list[Threshold]


@dataclass(frozen=True)
class Fold:
    """Learned from `train`, tried on `test`."""

    log: Log
    target: Target
    train: Rows
    test: Rows

    def cascade(self, train_prior: Values | None, test_prior: Values | None) -> Cascaded:
        """From the smallest up; with priors, from where it pays to begin."""
        log, tiers = self.log, len(self.log.models)
        labelled = {
            name: log.labelled(name, self.train, None if train_prior is None else train_prior[k])
            for k, name in enumerate(log.models)
        }
        calibrated = calibrate(labelled, checkpoints=()).variants
        sure = np.array(
            [
                _judged(calibrated[name], log, name, self.test, None if test_prior is None else test_prior[k])
                for k, name in enumerate(log.models)
            ]
        )
        smaller = [(calibrated[name].evidence.scores[-1], calibrated[name].evidence) for name in log.models[:-1]]
        threshold = joint_threshold(smaller, self.target)
        waiting = np.ones(len(self.test), bool)
        tier = np.full(len(self.test), tiers - 1)
        asked = np.zeros((tiers, len(self.test)), bool)
        for k in range(tiers - 1):
            accepted_before = smaller[k][0] >= threshold.value
            begins = np.full(len(self.test), not threshold.never)
            if train_prior is not None and test_prior is not None:
                begins = self._pays(k, train_prior[k], test_prior[k], accepted_before)
            here = waiting & begins
            asked[k] = here
            accepted = here & (sure[k] >= threshold.value)
            tier[accepted] = k
            waiting &= ~accepted
        asked[tiers - 1] = waiting
        raw = np.array(
            [np.exp([log.answers[name][row].signals.mean_logprob for row in self.test]) for name in log.models]
        )
        return Cascaded(tier, asked, sure, raw, [threshold])

    def _pays(self, k: int, train: Values, test: Values, accepted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Where asking tier `k` first is likely to save more than it costs: P(accepted) × what is saved."""
        log = self.log
        price, saved = (float(log.cost[log.models[index]][self.train].mean()) for index in (k, -1))
        if not accepted.any():
            return np.zeros(len(test), bool)
        if accepted.all():
            return np.ones(len(test), bool)
        before, now = ([[log_odds(value)] for value in prior] for prior in (train, test))
        fitted = LogisticRegression(C=10.0).fit(before, accepted)
        return np.asarray(fitted.predict_proba(now)[:, 1] * saved > price)

    def routed(self, train_prior: Values, test_prior: Values) -> npt.NDArray[np.int64]:
        """Who is asked by what was learned alone: the cheapest tier that is good enough before it has answered, or
        as good as the last, by a threshold that keeps the target."""
        log = self.log
        ok = np.array([log.ok[name][self.train] for name in log.models])
        against = self.target.quality is not None
        scores, score = (prior[:-1] - prior[-1] if against else prior[:-1] for prior in (train_prior, test_prior))
        if self.target.accepted_wrong is not None:
            found = accepted_wrong(scores, ok[:-1], self.target.accepted_wrong, self.target.confidence)
        else:
            assert self.target.quality is not None
            found = quality(scores, ok[:-1], ok[-1], self.target.quality, self.target.confidence)
        reached = score >= found.value
        return np.where(reached.any(axis=0), reached.argmax(axis=0), len(log.models) - 1)


def _judged(calibrated: Calibrated, log: Log, name: str, rows: Rows, prior: Values | None) -> Values:
    return np.array(
        [
            calibrated.probability(
                log.answers[name][row].signals,
                log.groups[row],
                None if prior is None else float(prior[place]),
                whole=True,
            )
            for place, row in enumerate(rows)
        ]
    )


def _priors(log: Log, train: Rows, test: Rows) -> tuple[Values, Values]:
    """P(right) from the question's text: of the training questions held out in turn, and of the others."""
    outcomes = Outcomes(log.questions, {name: log.ok[name] for name in log.models})
    part = outcomes.some(train)
    read = by_text(count_terms(part.questions))
    # One strength for all, since all share a calibration.
    strength = strength_for(read, part, SEED)
    raw = held_out_scores(read, part, INNER_FOLDS, SEED, strength=strength)
    raw_test = scores_for(part, [log.questions[row] for row in test], strength)
    train_prior, test_prior = np.zeros(raw.T.shape), np.zeros(raw_test.T.shape)
    for k, name in enumerate(log.models):
        knots = calibration(raw[:, k], part.right[name])
        train_prior[k], test_prior[k] = np.interp(raw[:, k], *knots), np.interp(raw_test[:, k], *knots)
    return train_prior, test_prior


def _controls(log: Log, policies: Sequence[Policy]) -> Iterator[Policy]:
    """Always one model; and, at the last tier's share of the cascade: at random, the longest questions, the
    hardest by the reference rules."""
    tiers, count = len(log.models), len(log.questions)
    for k, name in enumerate(log.models):
        yield direct(f"always {name}", np.full(count, k), tiers)
    share = next(float((one.tier == tiers - 1).mean()) for one in policies if one.name == "cascade")
    rules = load_routing()
    hardness = [classify([{"role": "user", "content": text}], rules).complexity for text in log.questions]
    draws: dict[str, Values] = {
        "random": np.random.default_rng(SEED).random(count),
        "length": np.array([float(len(text)) for text in log.questions]),
        "the reference rules": np.array(hardness),
    }
    for name, score in draws.items():
        strong = np.zeros(count, bool)
        strong[np.argsort(-score, kind="stable")[: round(share * count)]] = True
        yield direct(f"{name}, at the cascade's share", np.where(strong, tiers - 1, 0), tiers)


def _oracle(log: Log) -> Policy:
    """The cheapest that is right; where none is, the cheapest."""
    right = np.array([log.ok[name] for name in log.models]) > 0.5
    return direct("oracle", np.where(right.any(axis=0), right.argmax(axis=0), 0), len(log.models))
