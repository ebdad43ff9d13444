"""Embeddings of many questions at once, offline, by the embedder that the running group uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from configs.catalog import MODELS, load_catalog
from configs.document import ConfigError
from configs.home import home
from configs.profile import load_profile
from deployments.classifier.learned import Floats
from deployments.embedding.embedder import Embedder
from groupqwen.stack.lifecycle import Choices, remembered


@dataclass(frozen=True)
class Vectors:
    """`values`: unit vectors (questions × dimensions), by the embedder of this name, whose file it is."""

    embedder: str
    values: Floats
    file: Path


def vectors_of(questions: Sequence[str], console: Console) -> Vectors | None:
    """As the embedder of the profile that was started last (else the default one) embeds a request's question;
    None, and a word about it, where it is not here."""
    choices = remembered(home()) or Choices()
    try:
        catalog = load_catalog(Path(choices.catalog) if choices.catalog else MODELS)
        name = load_profile(choices.profile, catalog).embedder
    except ConfigError as error:
        console.print(f"[yellow]Without embeddings: {error}[/yellow]")
        return None
    model, spec = home().embedder_file(name), catalog.embedders[name]
    if not model.is_file():
        console.print(f"[yellow]Without embeddings: {name} is not here yet (`up` makes it).[/yellow]")
        return None
    embedder = Embedder(model, home().model_file(name, spec.tokenizer), max_tokens=spec.max_tokens)
    # One by one, as requests come: an int8 model says something a little different of several at once.
    found = np.empty((len(questions), embedder.dimensions), np.float32)
    for row, question in enumerate(track(questions, "embedding", console=console, transient=True)):
        found[row] = embedder.embed([question])[0]
    return Vectors(name, found, model)
