"""P(correct | query, variant), learned from outcomes: TF-IDF over words and pieces of words, logistic
regression, and a calibration. Reads an artifact that `training.py` wrote; needs numpy and nothing else. Pure.

An artifact is one `.npz` file without pickles, so that reading one runs nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from deployments.classifier.ngrams import SHAPE, shape, terms

VERSION = 1
ROUTER, FAMILIES = "router", "families"
"""Kinds of artifacts: P(right) of variants, and scores of labels."""

Floats = npt.NDArray[np.float32]
Knots = tuple[Floats, Floats]
"""Raw scores in ascending order and the probabilities that belong to them."""


class ArtifactError(ValueError):
    """A file that is no artifact, or one of another version."""


@dataclass(frozen=True)
class Block:
    """One kind of term: `columns` finds its column in the weights. A block is scaled to length 1 by itself, so
    that many pieces do not outvote few words."""

    columns: Mapping[str, int]
    idf: Floats

    def values(self, counts: Counter[str]) -> tuple[list[int], Floats]:
        """The columns of a text, and their TF-IDF values."""
        found = {self.columns[term]: count for term, count in counts.items() if term in self.columns}
        columns = list(found)
        values = self.idf[columns] * np.array([1.0 + math.log(count) for count in found.values()], np.float32)
        norm = float(np.sqrt(values @ values))
        return columns, values / norm if norm else values


@dataclass(frozen=True)
class Embedded:
    """The model over a question's embedding. `weights`: outputs × dimensions; `bias`: outputs. `knots`: of each
    output's calibration where both models are averaged."""

    weights: Floats
    bias: Floats
    knots: tuple[Knots, ...]


@dataclass(frozen=True)
class Learned:
    """`weights`: outputs × (words + pieces + shape); `bias`: outputs. `knots`: of each output's calibration.
    `about`: where it comes from, and how good it was. `embedded`: None where the text alone was learned from."""

    names: tuple[str, ...]
    words: Block
    pieces: Block
    weights: Floats
    bias: Floats
    knots: tuple[Knots, ...]
    about: Mapping[str, Any]
    embedded: Embedded | None = None

    def scores(self, text: str) -> Floats:
        """Uncalibrated log-odds, one for each output."""
        whole, parts = terms(text)
        total = self.bias.copy()
        start = 0
        for block, counts in ((self.words, whole), (self.pieces, parts)):
            columns, values = block.values(counts)
            if columns:
                total += self.weights[:, [start + column for column in columns]] @ values
            start += len(block.idf)
        return np.asarray(total + self.weights[:, start:] @ np.array(shape(text), np.float32), np.float32)

    def predict(self, text: str, embedding: Floats | None = None) -> dict[str, float]:
        """Calibrated probabilities, by output; by the text alone where there is no embedding, or one of another
        embedder."""
        scores, calibration, beside = self.scores(text), self.knots, self.embedded
        if beside is not None and embedding is not None and embedding.shape == beside.weights.shape[1:]:
            scores = np.asarray((scores + beside.weights @ embedding + beside.bias) / 2, np.float32)
            calibration = beside.knots
        return {
            name: float(np.interp(score, *knots))
            for name, score, knots in zip(self.names, scores, calibration, strict=True)
        }

    def likeliest(self, text: str) -> str | None:
        """Of labels, the one that holds; None where it is less sure than it nearly always is of such questions."""
        scores = self.scores(text).astype(np.float64)
        odds = np.exp(scores - scores.max())
        sure = odds.max() / odds.sum() >= float(self.about["measures"]["sure"])
        return self.names[int(odds.argmax())] if sure else None

    def save(self, path: Path) -> None:
        """Write the artifact; it is there whole or not at all."""
        about = {**self.about, "version": VERSION, "names": list(self.names)}
        arrays: dict[str, npt.NDArray[Any]] = {
            "about": _bytes(json.dumps(about, sort_keys=True)),
            "words": _bytes("\n".join(self.words.columns)),
            "words_idf": self.words.idf,
            "pieces": _bytes("\n".join(self.pieces.columns)),
            "pieces_idf": self.pieces.idf,
            "weights": self.weights.astype(np.float16),
            "bias": self.bias,
        }
        arrays |= {f"knots_{index}": np.stack(knots) for index, knots in enumerate(self.knots)}
        if self.embedded is not None:
            arrays |= {"embedding": self.embedded.weights, "embedding_bias": self.embedded.bias}
            known = enumerate(self.embedded.knots)
            arrays |= {f"embedding_knots_{index}": np.stack(knots) for index, knots in known}
        staged = path.with_suffix(".tmp.npz")
        np.savez_compressed(staged, allow_pickle=False, **arrays)
        staged.replace(path)


def load_learned(path: Path, kind: str = ROUTER) -> Learned:
    """Raises `ArtifactError`, also for an artifact of another kind, and `OSError` where there is no file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(_text(file["about"]))
            if about.get("version") != VERSION:
                raise ArtifactError(f"{path} is of version {about.get('version')}, and this reads {VERSION}")
            if about.get("kind", ROUTER) != kind:
                raise ArtifactError(f"{path} holds {about.get('kind', ROUTER)}, not {kind}")
            names = tuple(str(name) for name in about["names"])
            words, pieces = (_block(file, kind) for kind in ("words", "pieces"))
            weights, bias = file["weights"].astype(np.float32), file["bias"].astype(np.float32)
            knots = tuple(_knots(file[f"knots_{index}"]) for index in range(len(names)))
            embedded = _embedded(file, len(names)) if "embedding" in file else None
    except ArtifactError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{path} is no artifact: {error}") from error
    expected = (len(names), len(words.idf) + len(pieces.idf) + len(SHAPE))
    if weights.shape != expected or bias.shape != (len(names),):
        raise ArtifactError(f"{path} is no artifact: its weights are {weights.shape}, not {expected}")
    return Learned(names, words, pieces, weights, bias, knots, about, embedded)


def embedder_of(path: Path) -> str | None:
    """The embedder whose vectors an artifact reads beside the text; None where it reads none, or is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(json.loads(_text(file["about"]))["embedder"]) if "embedding" in file else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None


def _embedded(file: Mapping[str, npt.NDArray[Any]], count: int) -> Embedded:
    weights, bias = (file[name].astype(np.float32) for name in ("embedding", "embedding_bias"))
    if weights.ndim != 2 or len(weights) != count or bias.shape != (count,):
        raise ArtifactError(f"its weights of the embedding are {weights.shape}, for {count} variants")
    return Embedded(weights, bias, tuple(_knots(file[f"embedding_knots_{index}"]) for index in range(count)))


def _block(file: Mapping[str, npt.NDArray[Any]], kind: str) -> Block:
    listed = _text(file[kind]).split("\n")
    idf = file[f"{kind}_idf"].astype(np.float32)
    if len(listed) != len(idf):
        raise ArtifactError(f"{len(listed)} terms have {len(idf)} weights")
    return Block({term: column for column, term in enumerate(listed)}, idf)


def _knots(stacked: npt.NDArray[Any]) -> Knots:
    xs, ys = (np.asarray(row, np.float32) for row in stacked)
    if not len(xs) or np.any(np.diff(xs) < 0) or not np.all((ys >= 0) & (ys <= 1)):
        raise ArtifactError("its calibration is not one")
    return xs, ys


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _text(array: Sequence[int] | npt.NDArray[Any]) -> str:
    return np.asarray(array, np.uint8).tobytes().decode()
