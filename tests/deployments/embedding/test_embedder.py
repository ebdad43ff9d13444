"""The way from texts to vectors, on a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from deployments.embedding.embedder import BATCH, Embedder, _groups
from tests.deployments.embedding.tiny import END, make, run, write_tokenizer


def embedder(folder: Path, max_tokens: int = 32) -> Embedder:
    write_tokenizer(folder / "tokenizer.json")
    return Embedder(make("qwen3", folder).export(), folder / "tokenizer.json", max_tokens=max_tokens)


def test_texts_of_any_length_come_in_their_order(tmp_path: Path) -> None:
    ours = embedder(tmp_path)
    texts = [f"{'long ' * (n % 7)}{n}" for n in range(BATCH + 5)]
    vectors = ours.embed(texts)
    assert vectors.shape == (len(texts), ours.dimensions)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(ours.embed([text])[0], vector, atol=1e-6)
    assert ours.embed(["", "a \ud83d"]).shape == (2, ours.dimensions)
    assert ours.embed([]).shape == (0, ours.dimensions)


def test_a_text_that_is_cut_still_ends_with_the_token_for_that(tmp_path: Path) -> None:
    ours = embedder(tmp_path, max_tokens=8)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = [*tokenizer.encode("abcdefg", add_special_tokens=False).ids, tokenizer.token_to_id(END)]
    assert len(ids) == 8
    (expected,) = run(tmp_path / "model.onnx", np.array([ids]), np.ones((1, 8), np.int64))
    np.testing.assert_allclose(ours.embed(["abcdefghijklmnop"])[0], expected, atol=1e-6)
    assert ours.count_tokens(["abcdefghijklmnop", ""]) == 8 + 1


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([], []),
        ([1] * 70, [32, 32, 6]),
        ([256] * 64, [32, 32]),
        ([512] * 33, [16, 16, 1]),
        ([1, 1, 9000, 9000], [2, 1, 1]),
    ],
)
def test_batches_are_limited_by_texts_and_by_tokens(lengths: list[int], sizes: list[int]) -> None:
    groups = list(_groups(range(len(lengths)), lengths))
    assert [len(group) for group in groups] == sizes
    assert [i for group in groups for i in group] == list(range(len(lengths)))
