"""The real models, fetched once into the home that tests keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from configs.catalog import load_catalog
from configs.curation import CurationRules, load_curation
from configs.home import Home
from configs.profile import load_profile
from groupqwen.models import WantedFile, prepare_embedder, pull
from train.curate.curating import load_tools
from train.curate.pii.model import PiiModel
from train.curate.steps import Tools

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def rules() -> CurationRules:
    return load_curation()


@pytest.fixture(scope="session")
def tools(rules: CurationRules) -> Tools:
    """Both models, as a user has them."""
    home = Home(Path(os.environ.get("GROUPQWEN_TEST_HOME") or ROOT / ".test-home").absolute())
    home.make()
    catalog = load_catalog()
    embedder, pii = catalog.embedders[rules.embedder], rules.pii_model
    sources = [(rules.embedder, source) for source in (embedder.weights, embedder.tokenizer, embedder.config)]
    files = [WantedFile(name, source, home.model_file(name, source)) for name, source in sources]
    files += [
        WantedFile(pii.name, source, target)
        for source, target in zip((pii.model, pii.tokenizer), pii.files(home), strict=True)
    ]
    pull(files, Console(stderr=True))
    prepare_embedder(load_profile("cpu", catalog), catalog, home)
    return load_tools(home, rules)


@pytest.fixture(scope="session")
def pii_model(tools: Tools) -> PiiModel:
    assert tools.pii is not None
    return tools.pii
