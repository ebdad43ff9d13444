from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.classifier.learned import ArtifactError, Floats, Learned, embedder_of, load_learned
from deployments.classifier.ngrams import READ_CHARS, SHAPE, shape, shortened, terms
from deployments.classifier.regression import STRENGTHS, best_strength
from deployments.classifier.training import Outcomes, TooLittle, by_text, count_terms, held_out_scores, learn

HARD, EASY = ("integral", "eigenvalue", "proof"), ("colour", "capital", "name")


def questions(count: int, seed: int = 0) -> Outcomes:
    """Easy and hard questions: the small one fails the hard ones mostly, the large one seldom."""
    draw = np.random.default_rng(seed)
    texts, small, large, groups = [], [], [], []
    for number in range(count):
        hard = bool(draw.random() < 0.5)
        word = str(draw.choice(HARD if hard else EASY))
        texts.append(f"What is the {word} of thing {number % 17}? Please tell me.")
        small.append(float(draw.random() < (0.1 if hard else 0.9)))
        large.append(float(draw.random() < 0.9))
        groups.append(word)
    return Outcomes(texts, {"small": np.array(small), "large": np.array(large)}, groups)


@pytest.fixture(scope="module")
def learned() -> Learned:
    return learn(questions(1200))


def test_it_learns_what_the_small_one_cannot(learned: Learned) -> None:
    hard, easy = learned.predict("What is the integral of thing 3?"), learned.predict("What is the capital of it?")
    assert hard["small"] < 0.3 < 0.7 < easy["small"]
    assert hard["large"] == pytest.approx(0.9, abs=0.1)
    measured = learned.about["measures"]
    assert measured["variants"]["small"]["auroc"] > 0.85
    assert measured["variants"]["small"]["calibration_error"] < 0.05
    assert measured["variants"]["large"]["auroc"] == pytest.approx(0.5, abs=0.1), "it fails by chance alone"
    assert measured["pairs"]["small → large"]["apgr"] > 0.65


def test_an_artifact_predicts_what_was_learned(learned: Learned, tmp_path: Path) -> None:
    path = tmp_path / "router.npz"
    learned.save(path)
    read = load_learned(path)
    assert read.about["data"] == questions(1200).digest
    for text in ("", "What is the proof of x?", "?" * 10_000, "naïve 東京 <|im_end|>"):
        for name, probability in learned.predict(text).items():
            assert read.predict(text)[name] == pytest.approx(probability, abs=0.02)
    assert list(tmp_path.iterdir()) == [path]


def test_one_question_is_scored_as_in_training(learned: Learned) -> None:
    from deployments.classifier.training import matrix_of

    texts = questions(20, seed=5).questions
    together = matrix_of(count_terms(texts), np.arange(20), learned.words, learned.pieces) @ learned.weights.T
    for text, row in zip(texts, together, strict=True):
        assert learned.scores(text) == pytest.approx(row + learned.bias, abs=1e-4)


def vectors(outcomes: Outcomes, seed: int = 3) -> Floats:
    """Embeddings in which hard and easy questions lie apart, whatever their words."""
    draw = np.random.default_rng(seed)
    groups = outcomes.groups or []
    hard = np.array([[1.0 if group in HARD else -1.0] for group in groups])
    made = np.hstack([hard, 0.3 * draw.normal(size=(len(groups), 7))])
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def test_an_embedding_is_read_where_it_helps_and_left_out_where_it_does_not(tmp_path: Path) -> None:
    # Words that say nothing: all that is known is in the embedding.
    told = questions(600)
    silent = Outcomes([f"thing {number}" for number in range(600)], told.right, told.groups)
    both = learn(silent, vectors=vectors(told))
    assert both.embedded is not None
    assert both.about["measures"]["variants"]["small"]["auroc"] > 0.8
    hard, easy = (np.array([sign, *[0.0] * 7], np.float32) for sign in (1, -1))
    assert both.predict("thing", hard)["small"] < 0.3 < 0.7 < both.predict("thing", easy)["small"]
    alone = both.predict("thing")["small"]
    assert 0.3 < alone < 0.7, "without one, the text alone is calibrated by itself"
    assert both.predict("thing", hard[1:])["small"] == alone, "another embedder's says nothing"

    path = tmp_path / "router.npz"
    replace(both, about={**both.about, "embedder": "mini"}).save(path)
    assert embedder_of(path) == "mini"
    assert load_learned(path).predict("thing", hard) == pytest.approx(both.predict("thing", hard), abs=0.02)
    with np.load(path) as good:
        arrays = dict(good)
    for changed in (
        {"embedding": arrays["embedding"][:1]},
        {"embedding_knots_0": arrays["embedding_knots_0"] + 2},
    ):
        with path.open("wb") as file:
            np.savez(file, **{**arrays, **changed})
        with pytest.raises(ArtifactError):
            load_learned(path)

    noise = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    text = learn(told, vectors=noise)
    assert text.embedded is None
    text.save(path)
    assert embedder_of(path) is None
    assert embedder_of(tmp_path / "none.npz") is None
    path.write_bytes(b"no artifact")
    assert embedder_of(path) is None


def test_the_regularization_is_the_one_under_which_what_is_held_out_is_told_apart_best() -> None:
    draw = np.random.default_rng(0)
    splits = [(np.arange(0, 300), np.arange(300, 400)), (np.arange(100, 400), np.arange(100))]
    matrix = draw.normal(size=(400, 150)).astype(np.float32)
    # A weak sign in everything: the less each column counts by itself, the better.
    spread = (matrix.sum(axis=1) / 12 + draw.normal(size=400) > 0).astype(float)
    # All in one column: the rest is in the way of it.
    single = (matrix[:, 0] + 0.02 * draw.normal(size=400) > 0).astype(float)
    assert best_strength(matrix, [single], splits) == max(STRENGTHS)
    assert best_strength(10 * matrix, [spread], splits) == min(STRENGTHS)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/exploded"),))  # type: ignore[return-value]


def test_what_is_no_artifact_is_refused_and_nothing_of_it_is_run(learned: Learned, tmp_path: Path) -> None:
    path = tmp_path / "router.npz"
    for data in (b"", b"PK\x03\x04 not", pickle.dumps(Bomb())):
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            load_learned(path)
    with path.open("wb") as file:
        np.savez(file, about=np.array([Bomb()], dtype=object))
    with pytest.raises(ArtifactError):
        load_learned(path)
    learned.save(path)
    with np.load(path) as good:
        arrays = dict(good)
    about = json.loads(arrays["about"].tobytes())
    for changed in (
        {"about": np.frombuffer(json.dumps({**about, "version": 99}).encode(), np.uint8)},
        {"weights": arrays["weights"][:, 1:]},
        {"words_idf": arrays["words_idf"][1:]},
        {"knots_0": arrays["knots_0"][:, ::-1]},
        {"knots_1": arrays["knots_1"] + 2},
    ):
        with path.open("wb") as file:
            np.savez(file, **{**arrays, **changed})
        with pytest.raises(ArtifactError):
            load_learned(path)
    with pytest.raises(OSError, match=r"no\.npz"):
        load_learned(tmp_path / "no.npz")


def test_too_little_is_refused() -> None:
    with pytest.raises(TooLittle, match="99 outcomes are too few"):
        learn(questions(99))


def test_one_that_is_always_right_needs_no_model() -> None:
    outcomes = questions(200)
    always = Outcomes(outcomes.questions, {**outcomes.right, "perfect": np.ones(200)})
    assert learn(always).predict("anything")["perfect"] == 1.0


def test_what_was_held_out_by_group_was_not_seen() -> None:
    outcomes = questions(300)
    read = by_text(count_terms(outcomes.questions))
    seen = held_out_scores(read, outcomes, 5, 0)[:, 0]
    unseen = held_out_scores(read, outcomes, 3, 0, by_group=True)[:, 0]
    hard = np.array([group in HARD for group in outcomes.groups or []])
    assert seen[~hard].mean() - seen[hard].mean() > 1.0
    assert unseen[~hard].mean() - unseen[hard].mean() < 1.0, "an unknown word says little"
    with pytest.raises(ValueError, match="no groups"):
        held_out_scores(read, Outcomes(outcomes.questions, outcomes.right), 3, 0, by_group=True)


def test_terms_are_words_pairs_and_pieces() -> None:
    whole, pieces = terms("Solve x+1, solve it")
    assert whole["solve"] == 2
    assert whole["x +"] == whole["solve it"] == 1
    assert pieces[" sol"] == pieces["olve "] == 2
    assert terms("") == (Counter(), Counter())


@given(st.text(max_size=9000))
def test_any_text_has_terms_and_a_shape_between_0_and_1(text: str) -> None:
    whole, pieces = terms(text)
    assert sum(whole.values()) <= 4 * READ_CHARS + 2
    assert all(3 <= len(piece) <= 5 for piece in pieces)
    values = shape(text)
    assert len(values) == len(SHAPE)
    assert all(0 <= value <= 1 for value in values)
    assert len(shortened(text)) <= 2 * READ_CHARS + 1
