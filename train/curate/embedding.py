"""Sentence embeddings by the group's own embedder: the file is the one that serves, its session is not.

A long text is cut into pieces as long as the model reads, and is the mean of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

BATCH = 32
MOST_PIECES = 16
"""Of a text; of one with more, as many that lie evenly in it."""


class Embedder:
    """`model` is the ONNX export that takes `input_ids` and `attention_mask` and gives unit vectors."""

    def __init__(self, model: Path, tokenizer: Path, *, max_tokens: int, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.dimensions = int(self._session.get_outputs()[0].shape[1])

    def embed(
        self, texts: Sequence[str], done: Callable[[int], object] = lambda _: None
    ) -> npt.NDArray[np.float32]:
        """Unit vectors (len(texts), dimensions). `done` is told how many texts more are ready."""
        owners: list[int] = []
        pieces: list[list[int]] = []
        for at, text in enumerate(texts):
            encoding = self._tokenizer.encode(text.encode("utf-8", "replace").decode())
            ids = [encoding.ids, *(more.ids for more in encoding.overflowing)]
            if len(ids) > MOST_PIECES:
                ids = [ids[round(place)] for place in np.linspace(0, len(ids) - 1, MOST_PIECES)]
            pieces += ids
            owners += [at] * len(ids)
        out = np.zeros((len(texts), self.dimensions), np.float32)
        order = sorted(range(len(pieces)), key=lambda i: (len(pieces[i]), i))
        left = np.bincount(owners, minlength=len(texts)) if owners else np.zeros(0, int)
        for first in range(0, len(order), BATCH):
            group = order[first : first + BATCH]
            vectors = self._run([pieces[i] for i in group])
            for i, vector in zip(group, vectors, strict=True):
                out[owners[i]] += vector
                left[owners[i]] -= 1
            done(sum(1 for owner in {owners[i] for i in group} if left[owner] == 0))
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out

    def _run(self, pieces: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        width = max(map(len, pieces))
        ids = np.zeros((len(pieces), width), np.int64)
        mask = np.zeros_like(ids)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = piece
            mask[row, : len(piece)] = 1
        (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors, np.float32)
