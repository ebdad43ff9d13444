"""Learns a router from outcomes, offline: questions, and which variant answered each of them right.

Probabilities are calibrated on questions that the model has not seen (cross-validation), and so are all measures.
Nothing is promised beyond questions like these: what was learned on one set is at chance on another.

A question is read as text (`ngrams.py`) and, where vectors are given, by its embedding: the log-odds of the two
models are averaged. Neither is the better one everywhere; the embedding carries further, to kinds of question that
were not seen.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, KFold

from deployments.classifier.learned import Block, Embedded, Floats, Knots, Learned
from deployments.classifier.measures import apgr, auroc, calibration_error
from deployments.classifier.ngrams import shape, terms
from deployments.classifier.regression import Matrix, Rows, Values, best_strength, fit

LEAST_OUTCOMES = 100
LEAST_PAIRED = 50
"""Questions that both of a pair have answered, for a figure of the pair."""

ENOUGH_FOR_ISOTONIC = 1000
"""With fewer questions a line through the log-odds (Platt) is surer than a free monotone curve."""

MOST_TERMS = 40_000
SEEN_IN = 2
"""A term counts that occurs in so many questions."""

WORTH_WAITING = 0.01
"""Share by which reading embeddings must lower the logarithmic loss: then each decision waits for one."""

INNER_FOLDS = 3
"""Parts by which a model's regularization is chosen."""


class TooLittle(ValueError):
    """Too few outcomes to learn from."""


@dataclass(frozen=True)
class Outcomes:
    """`right`: for each variant, 1 or 0 for each question, NaN where it has not answered. `groups`: what the
    questions are about, where that is known."""

    questions: Sequence[str]
    right: Mapping[str, Values]
    groups: Sequence[str] | None = None

    @property
    def digest(self) -> str:
        """A fingerprint of the data."""
        digest = hashlib.sha256()
        for index, question in enumerate(self.questions):
            answers = [None if math.isnan(ok[index]) else int(ok[index]) for ok in self.right.values()]
            digest.update(f"{question}\0{answers}\n".encode())
        return digest.hexdigest()

    def some(self, rows: Rows) -> Outcomes:
        """Only these questions."""
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        right = {name: ok[rows] for name, ok in self.right.items()}
        return Outcomes([self.questions[row] for row in rows], right, groups)


Counted = tuple[list[Counter[str]], list[Counter[str]], list[list[float]]]


def learn(outcomes: Outcomes, folds: int = 5, seed: int = 0, vectors: Floats | None = None) -> Learned:
    """A router whose calibration and measures come from questions that each of its halves has not seen.
    `vectors`: embeddings of the questions (questions × dimensions); they are left out where they do not help.
    Raises `TooLittle`."""
    count = len(outcomes.questions)
    if count < LEAST_OUTCOMES:
        raise TooLittle(f"{count} outcomes are too few to learn from; {LEAST_OUTCOMES} are the least")
    counted = count_terms(outcomes.questions)
    every, right, splits = np.arange(count), list(outcomes.right.values()), inner_folds(outcomes, seed)
    words, pieces = vocabularies(counted, every)
    matrix = matrix_of(counted, every, words, pieces)
    # One strength for all parts: scores of differently strong models could not share a calibration.
    strength = best_strength(matrix, right, splits)
    weights, bias = fit(matrix, right, strength)
    held_out = held_out_scores(by_text(counted), outcomes, folds, seed, strength=strength)
    measured = measures(held_out, outcomes, folds, seed)
    embedded = None
    if vectors is not None:
        beside = best_strength(vectors, right, splits)
        both = averaged(held_out, held_out_scores(by_vector(vectors), outcomes, folds, seed, strength=beside))
        losses = [_loss(_calibrated(scores, outcomes, folds, seed), outcomes) for scores in (held_out, both)]
        if losses[1] <= losses[0] * (1 - WORTH_WAITING):
            embedded = Embedded(*fit(vectors, right, beside), _all_knots(both, outcomes))
            measured = measures(both, outcomes, folds, seed)
    about = {"data": outcomes.digest, "questions": count, "measures": measured}
    knots = _all_knots(held_out, outcomes)
    return Learned(tuple(outcomes.right), words, pieces, weights, bias, knots, about, embedded)


def averaged(text: Values, vector: Values) -> Values:
    """Log-odds by both models."""
    return np.asarray((text + vector) / 2)


def mean_auroc(measured: Mapping[str, Any]) -> float:
    """One figure to compare routers by: of their variants."""
    found = [float(one["auroc"]) for one in measured["variants"].values()]
    return sum(found) / len(found)


def _all_knots(held_out: Values, outcomes: Outcomes) -> tuple[Knots, ...]:
    return tuple(calibration(scores, ok) for scores, ok in zip(held_out.T, outcomes.right.values(), strict=True))


def count_terms(questions: Sequence[str]) -> Counted:
    """Terms and shapes of every question."""
    both = [terms(question) for question in questions]
    return [whole for whole, _ in both], [parts for _, parts in both], [shape(question) for question in questions]


Reading = Callable[[Rows], Callable[[Rows], Matrix]]
"""How questions become numbers: from the rows that are learned from (the vocabulary is theirs) to any's matrix."""


def by_text(counted: Counted) -> Reading:
    """As terms and shapes."""

    def learned_from(rows: Rows) -> Callable[[Rows], Matrix]:
        words, pieces = vocabularies(counted, rows)
        return lambda some: matrix_of(counted, some, words, pieces)

    return learned_from


def by_vector(vectors: Floats) -> Reading:
    """As embeddings (questions × dimensions)."""
    return lambda _: lambda some: vectors[some]


def held_out_scores(
    reading: Reading,
    outcomes: Outcomes,
    folds: int,
    seed: int,
    by_group: bool = False,
    most: int | None = None,
    strength: float | None = None,
) -> Values:
    """Log-odds (questions × variants) from models that have not seen the question, nor with `by_group` anything
    of its group. `most`: learn from no more than so many questions. `strength`: of the regularization; unset:
    chosen anew for each part, from what it learns from."""
    scores = np.zeros((len(outcomes.questions), len(outcomes.right)))
    for rows, held in _parts(outcomes, folds, seed, by_group, most):
        read, part = reading(rows), outcomes.some(rows)
        matrix, right = read(rows), list(part.right.values())
        chosen = strength or best_strength(matrix, right, inner_folds(part, seed, by_group))
        weights, bias = fit(matrix, right, chosen)
        scores[held] = read(held) @ weights.T.astype(np.float64) + bias
    return scores


def strength_for(reading: Reading, outcomes: Outcomes, seed: int) -> float:
    """The strength of the regularization that suits these questions."""
    every = np.arange(len(outcomes.questions))
    return best_strength(reading(every)(every), list(outcomes.right.values()), inner_folds(outcomes, seed))


def scores_for(outcomes: Outcomes, questions: Sequence[str], strength: float) -> Values:
    """Log-odds (questions × variants) of other questions than those that were learned from."""
    known, asked = np.split(np.arange(len(outcomes.questions) + len(questions)), [len(outcomes.questions)])
    read = by_text(count_terms([*outcomes.questions, *questions]))(known)
    weights, bias = fit(read(known), list(outcomes.right.values()), strength)
    return np.asarray(read(asked) @ weights.T.astype(np.float64) + bias)


def _parts(
    outcomes: Outcomes, folds: int, seed: int, by_group: bool, most: int | None
) -> Iterator[tuple[Rows, Rows]]:
    """What is learned from, and what is held out."""
    draw = np.random.default_rng(seed)
    for learned_from, held in _folds(outcomes, folds, seed, by_group):
        yield learned_from if most is None else draw.permutation(learned_from)[:most], held


def _folds(outcomes: Outcomes, folds: int, seed: int, by_group: bool) -> Iterator[tuple[Rows, Rows]]:
    rows = np.zeros(len(outcomes.questions))
    if by_group:
        if outcomes.groups is None:
            raise ValueError("the questions have no groups")
        yield from GroupKFold(folds).split(rows, groups=list(outcomes.groups))
    else:
        yield from KFold(folds, shuffle=True, random_state=seed).split(rows)


def inner_folds(outcomes: Outcomes, seed: int, by_group: bool = False) -> list[tuple[Rows, Rows]]:
    """By which a model's regularization is chosen: as it will be asked, about kinds that it has seen or not."""
    by_group = by_group and outcomes.groups is not None and len(set(outcomes.groups)) >= INNER_FOLDS
    return list(_folds(outcomes, INNER_FOLDS, seed, by_group))


def vocabularies(counted: Counted, rows: Rows) -> tuple[Block, Block]:
    """Of the words and the pieces of these questions."""
    words, pieces = (vocabulary([kind[row] for row in rows]) for kind in counted[:2])
    return words, pieces


def vocabulary(counts: Sequence[Counter[str]]) -> Block:
    """The terms that occur in enough questions, the commonest first."""
    seen_in: Counter[str] = Counter()
    for one in counts:
        seen_in.update(one.keys())
    kept = [(term, n) for term, n in seen_in.most_common(MOST_TERMS) if n >= SEEN_IN]
    idf = np.array([math.log((1 + len(counts)) / (1 + n)) + 1 for _, n in kept], np.float32)
    return Block({term: column for column, (term, _) in enumerate(kept)}, idf)


def matrix_of(counted: Counted, rows: Rows, words: Block, pieces: Block) -> sparse.csr_matrix:
    """Questions × (words + pieces + shape), as `Learned.scores` sees them."""
    data: list[Floats] = []
    columns: list[npt.NDArray[np.int32]] = []
    starts = [0]
    after_words, after_pieces = len(words.idf), len(words.idf) + len(pieces.idf)
    for row in rows:
        of_words, word_values = words.values(counted[0][row])
        of_pieces, piece_values = pieces.values(counted[1][row])
        shaped = counted[2][row]
        data += [word_values, piece_values, np.array(shaped, np.float32)]
        columns += [
            np.array(of_words, np.int32),
            np.array(of_pieces, np.int32) + after_words,
            np.arange(after_pieces, after_pieces + len(shaped), dtype=np.int32),
        ]
        starts.append(starts[-1] + len(of_words) + len(of_pieces) + len(shaped))
    width = after_pieces + len(counted[2][0])
    return sparse.csr_matrix((np.concatenate(data), np.concatenate(columns), starts), (len(rows), width))


def calibration(scores: Values, ok: Values) -> Knots:
    """Scores and the probabilities that belong to them, from questions that were not learned from."""
    scores, ok = scores[~np.isnan(ok)], ok[~np.isnan(ok)]
    right = ok > 0.5
    if not len(right):
        return np.array([0.0], np.float32), np.array([0.5], np.float32)
    grid = np.linspace(scores.min(), scores.max(), 60)
    if right.all() or not right.any():
        return np.array([0.0], np.float32), np.array([float(right.mean())], np.float32)
    if len(scores) >= ENOUGH_FOR_ISOTONIC:
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, right)
        grid, values = fitted.X_thresholds_, fitted.y_thresholds_
    else:
        line = LogisticRegression(C=1e6).fit(scores[:, None], right)
        values = line.predict_proba(grid[:, None])[:, 1]
    return np.asarray(grid, np.float32), np.clip(np.asarray(values, np.float32), 0, 1)


def measures(held_out: Values, outcomes: Outcomes, folds: int, seed: int) -> dict[str, Any]:
    """Of each variant: share right, AUROC, calibration error (calibrated on the other folds). Of each pair of
    neighbours from worse to better: the area under the quality recovered."""
    found: dict[str, Any] = {"variants": {}, "pairs": {}}
    calibrated = _calibrated(held_out, outcomes, folds, seed)
    for index, (name, ok) in enumerate(outcomes.right.items()):
        known = ~np.isnan(ok)
        found["variants"][name] = {
            "answers": int(known.sum()),
            "right": round(float(ok[known].mean()), 4),
            "auroc": round(auroc(held_out[known, index], ok[known]), 4),
            "calibration_error": round(calibration_error(calibrated[known, index], ok[known]), 4),
        }
    rights = list(outcomes.right.items())
    ordered = sorted(range(len(rights)), key=lambda index: float(np.nanmean(rights[index][1])))
    for weak, strong in pairwise(ordered):
        (weak_name, weak_ok), (strong_name, strong_ok) = rights[weak], rights[strong]
        both = ~np.isnan(weak_ok) & ~np.isnan(strong_ok)
        if both.sum() >= LEAST_PAIRED and strong_ok[both].mean() > weak_ok[both].mean():
            gain = calibrated[both, strong] - calibrated[both, weak]
            area = apgr(gain, weak_ok[both], strong_ok[both])
            found["pairs"][f"{weak_name} → {strong_name}"] = {"apgr": round(area, 4)}
    return found


def _calibrated(held_out: Values, outcomes: Outcomes, folds: int, seed: int) -> Values:
    """Probabilities, calibrated on the other folds."""
    found = np.zeros_like(held_out)
    for learned_from, held in _folds(outcomes, folds, seed + 1, by_group=False):
        for index, ok in enumerate(outcomes.right.values()):
            knots = calibration(held_out[learned_from, index], ok[learned_from])
            found[held, index] = np.interp(held_out[held, index], *knots)
    return found


def _loss(calibrated: Values, outcomes: Outcomes) -> float:
    """The mean logarithmic loss over all variants."""
    losses = []
    for index, ok in enumerate(outcomes.right.values()):
        known = ~np.isnan(ok)
        said = np.clip(calibrated[known, index], 0.01, 0.99)
        losses.append(log_loss(ok[known] > 0.5, said, labels=[False, True]))
    return float(np.mean(losses))
