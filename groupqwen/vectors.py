"""Embeddings of many questions at once, offline, by the embedder that the running group uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import track

from configs.catalog import load_catalog
from configs.home import home
from configs.profile import load_profile
from deployments.classifier.learned import Floats
from deployments.embedding.embedder import BATCH, Embedder
from groupqwen.stack.lifecycle import remembered

AT_ONCE = 4 * BATCH


def embedder_name() -> str:
    """Of the profile that was started last; else of the default one. Raises `ConfigError`."""
    choices = remembered(home())
    return load_profile("cpu" if choices is None else choices.profile).embedder


def vectors_of(questions: Sequence[str], console: Console) -> Floats | None:
    """Unit vectors (questions × dimensions), as a request's question is embedded; None, and a word about it, where
    the embedder is not here."""
    name = embedder_name()
    model = home().embedder_file(name)
    spec = load_catalog().embedders[name]
    if not model.is_file():
        console.print(
            f"[yellow]Without embeddings: {name} is not here yet (`groupqwen models pull`, or `up`, makes it)."
            "[/yellow]"
        )
        return None
    embedder = Embedder(model, home().model_file(name, spec.tokenizer), max_tokens=spec.max_tokens)
    starts = range(0, len(questions), AT_ONCE)
    parts = [
        embedder.embed(questions[start : start + AT_ONCE])
        for start in track(starts, "embedding", console=console, transient=True)
    ]
    return np.concatenate(parts) if parts else np.empty((0, embedder.dimensions), np.float32)
