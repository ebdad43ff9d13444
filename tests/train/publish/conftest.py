"""One tiny model of each family for all tests, and what each adapter answers in PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.train.publish.tiny import FAMILIES, make_gguf, make_model
from train.publish.asking import ask
from train.publish.probing import Reference

QUESTION = "ab, ba?"
MOST_TOKENS = 12


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By family: a folder of transformers."""
    root = tmp_path_factory.mktemp("models")
    return {family: make_model(root / family, family, tied=family == "llama") for family in FAMILIES}


@pytest.fixture(scope="session")
def ggufs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By family: the same model for llama.cpp, in F32."""
    root = tmp_path_factory.mktemp("ggufs")
    return {family: make_gguf(model, root / f"{family}.gguf") for family, model in models.items()}


@pytest.fixture()
def asked(tmp_path: Path) -> Callable[[Path, Path], Reference]:
    """An adapter on its model, asked in this process."""

    def ask_peft(model: Path, adapter: Path) -> Reference:
        logits = tmp_path / "reference.npz"
        said = ask(str(model), str(adapter), QUESTION, MOST_TOKENS, str(logits))
        with np.load(logits) as kept:
            tuned, base = kept["tuned"], kept["base"]
        return Reference(QUESTION, said["answer"], said["prompt"], said["tokens"], tuned, base, tmp_path)

    return ask_peft
