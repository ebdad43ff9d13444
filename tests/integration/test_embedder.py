"""The embedder as it is made at install, beside the library whose model it is."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from benchmarks.cache_pairs import TRAPS
from deployments.embedding.embedder import Embedder, fingerprint_of
from tests.integration.conftest import ROOT, Stack


def texts() -> list[str]:
    """A thousand: questions, and lines of prose, code and tables."""
    topics = yaml.safe_load(TRAPS.read_text())
    questions = [
        one for topic in topics for one in (topic["question"], *topic["same"], *(o for _, o in topic["other"]))
    ]
    files = [ROOT / "README.md", ROOT / "docs" / "ARCHITECTURE.md", *sorted((ROOT / "deployments").rglob("*.py"))]
    lines = [line.strip() for file in files for line in file.read_text().splitlines() if len(line.split()) > 4]
    return [*questions, *lines][:1000]


def test_int8_agrees_with_sentence_transformers_on_a_thousand_texts(stack: Stack) -> None:
    models = pytest.importorskip("sentence_transformers.models", reason="`bash scripts/test.sh` installs it")
    from sentence_transformers import SentenceTransformer

    model = stack.settings.home.embedder_file(stack.settings.profile.embedder)
    spec = stack.settings.catalog.embedders[stack.settings.profile.embedder]
    ours = Embedder(model, model.parent / "tokenizer.json", max_tokens=spec.max_tokens)
    words = models.Transformer(str(model.parent), max_seq_length=spec.max_tokens)
    reference = SentenceTransformer(modules=[words, models.Pooling(words.get_embedding_dimension())], device="cpu")
    given = texts()
    assert len(given) == 1000
    cosines = np.sum(ours.embed(given) * reference.encode(given, normalize_embeddings=True), axis=1)
    assert cosines.mean() >= 0.99
    assert np.quantile(cosines, 0.01) >= 0.97


def test_an_export_is_known_by_its_content(stack: Stack) -> None:
    model = stack.settings.home.embedder_file(stack.settings.profile.embedder)
    assert fingerprint_of(model) == fingerprint_of(model)
    assert fingerprint_of(model) != fingerprint_of(model.parent / "tokenizer.json")
