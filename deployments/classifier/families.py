"""What a question is about (law, biology, recipes, …), learned from labelled questions: the labels are their
owner's. It stands beside the families that the rules know (code, mathematics, …), for rules of the owner's own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from deployments.classifier.learned import FAMILIES, Block, Floats, Learned
from deployments.classifier.regression import Rows, Values
from deployments.classifier.training import Counted, TooLittle, count_terms, matrix_of, vocabularies

STRENGTH = 10.0
"""Inverse of the regularization, scikit-learn's C. Words tell domains apart plainly; outcomes they do not."""

UNSURE = 0.05
"""Share of known questions that are taken for something else: greetings and the like are told less surely."""

Labels = npt.NDArray[np.str_]


def learn_families(questions: Sequence[str], labels: Sequence[str], folds: int = 5, seed: int = 0) -> Learned:
    """Scores of each label; `about` holds what was measured on held-out questions. Raises `TooLittle`."""
    named = np.array(labels)
    counts = Counter(labels)
    few = [label for label, count in counts.items() if count < folds]
    if few or len(counts) < 2:
        raise TooLittle(
            f"{', '.join(sorted(few))} have fewer than {folds} questions"
            if few
            else "there must be two labels at least"
        )
    counted = count_terms(questions)
    right, sure = held_out(counted, named, folds, seed)
    names, words, pieces, weights, bias = _fit(counted, named, np.arange(len(named)))
    rows = zip(questions, labels, strict=True)
    digest = hashlib.sha256("\0".join(f"{question}\t{label}" for question, label in rows).encode())
    measured = {
        "accuracy": round(float(np.concatenate(right).mean()), 4),
        "worst_fold": round(float(min(part.mean() for part in right)), 4),
        "sure": round(float(np.quantile(np.concatenate(sure), UNSURE)), 4),
        "commonest": round(max(counts.values()) / len(named), 4),
    }
    about = {"kind": FAMILIES, "data": digest.hexdigest(), "questions": len(named), "measures": measured}
    known = (np.array([0.0], np.float32), np.array([0.5], np.float32))
    return Learned(names, words, pieces, weights, bias, (known,) * len(names), about)


def held_out(
    counted: Counted, labels: Labels, folds: int, seed: int
) -> tuple[list[npt.NDArray[np.bool_]], list[Values]]:
    """Of each fold's questions, by a model that has not seen them: which were told right, and how sure it was."""
    right, sure = [], []
    for learned_from, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        names, words, pieces, weights, bias = _fit(counted, labels, learned_from)
        scores = matrix_of(counted, held, words, pieces) @ weights.T.astype(np.float64) + bias
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        right.append(np.array(names)[scores.argmax(axis=1)] == labels[held])
        sure.append(odds.max(axis=1) / odds.sum(axis=1))
    return right, sure


def _fit(counted: Counted, labels: Labels, rows: Rows) -> tuple[tuple[str, ...], Block, Block, Floats, Floats]:
    words, pieces = vocabularies(counted, rows)
    model = LogisticRegression(C=STRENGTH, max_iter=300)
    model.fit(matrix_of(counted, rows, words, pieces), labels[rows])
    weights, bias = np.asarray(model.coef_, np.float32), np.asarray(model.intercept_, np.float32)
    if len(model.classes_) == 2:
        # Of two, scikit-learn keeps the second one's log-odds alone.
        weights, bias = (np.concatenate([np.zeros_like(part), part]) for part in (weights, bias))
    return tuple(str(name) for name in model.classes_), words, pieces, weights, bias
