"""Sentence embeddings: text in, unit vectors out. One per request, shared by cache and classifier.

Thread-safe; knows nothing of Redis or of what the vectors are for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

PAD = 0
"""Any token would do: what the mask leaves out is not read."""
BATCH = 32
BATCH_TOKENS = 8192
"""Of one batch, with its padding: attention takes memory by the square of a text's length."""


class Embedder:
    """`model` is what `deployments.embedding.export` wrote. Texts beyond `max_tokens` are cut."""

    def __init__(self, model: Path, tokenizer: Path, *, max_tokens: int, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # That fusion's kernel takes longer than the addition and the normalization that it stands for: without it
        # a short text takes a sixth less, a batch a quarter (1.32).
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.dimensions = int(self._session.get_outputs()[0].shape[1])

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors (len(texts), dimensions). Texts are grouped by length, so that little is padded."""
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(_unicode(texts))]
        out = np.empty((len(encoded), self.dimensions), np.float32)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        for group in _groups(order, [len(encoded[i]) for i in order]):
            width = len(encoded[group[-1]])
            ids = np.full((len(group), width), PAD, np.int64)
            mask = np.zeros((len(group), width), np.int64)
            for row, i in enumerate(group):
                ids[row, : len(encoded[i])] = encoded[i]
                mask[row, : len(encoded[i])] = 1
            (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
            out[group] = vectors
        return out

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` reads of these texts."""
        return sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(_unicode(texts)))


def _groups(order: Sequence[int], lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    """`order` cut into batches. `lengths` ascends; a text that is too long for any batch is one of its own."""
    start = 0
    for end, length in enumerate(lengths):
        if end - start == BATCH or (end > start and (end - start + 1) * length > BATCH_TOKENS):
            yield order[start:end]
            start = end
    if start < len(order):
        yield order[start:]


def _unicode(texts: Sequence[str]) -> list[str]:
    """Half a character, as JSON can hold it, is none that the tokenizer takes."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def fingerprint_of(model: Path) -> str:
    """Which embedder a file is: distances of two are not to be compared."""
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
