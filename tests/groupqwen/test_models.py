"""From the catalog to an embedder that answers."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import deployments.embedding.export
from configs.catalog import Catalog, EmbedderSpec, Source, load_catalog
from configs.home import Home
from configs.profile import Profile, load_profile
from deployments.embedding.embedder import Embedder
from deployments.embedding.export import export
from groupqwen.downloads import DownloadError
from groupqwen.models import prepare_embedder, pull, wanted
from tests.deployments.embedding.tiny import KINDS, Made, make, write_tokenizer

CATALOG = load_catalog()


def served_from(hub: Path) -> tuple[Profile, Catalog]:
    """The profile for a CPU with an embedder whose files lie here."""
    files = {
        part: Source(uri=f"file:{hub / name}")
        for part, name in (
            ("weights", "model.safetensors"),
            ("tokenizer", "tokenizer.json"),
            ("config", "config.json"),
        )
    }
    spec = EmbedderSpec(title="Tiny", dimensions=32, max_tokens=64, license="none", **files)
    catalog = CATALOG.model_copy(update={"embedders": {"tiny": spec}})
    profile = load_profile("cpu").model_copy(update={"embedder": "tiny"})
    profile.check_against(catalog)
    return profile, catalog


def made_and_fetched(kind: str, tmp_path: Path) -> tuple[Made, Profile, Catalog, Home]:
    made = make(kind, tmp_path / "hub")
    write_tokenizer(tmp_path / "hub" / "tokenizer.json")
    return made, *served_from(tmp_path / "hub"), Home(tmp_path / "home")


def fetch(profile: Profile, catalog: Catalog, home: Home) -> None:
    files = [file for file in wanted(profile, catalog, home) if file.name == "tiny"]
    assert len(files) == 3
    pull(files, Console(file=io.StringIO()))


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedder_of_each_architecture_is_fetched_made_and_answers(kind: str, tmp_path: Path) -> None:
    _, profile, catalog, home = made_and_fetched(kind, tmp_path)
    fetch(profile, catalog, home)
    model = prepare_embedder(profile, catalog, home)
    assert model == home.embedder_file("tiny")
    spec = catalog.embedders["tiny"]
    embedder = Embedder(model, home.model_file("tiny", spec.tokenizer), max_tokens=spec.max_tokens)
    assert embedder.dimensions == spec.dimensions
    vectors = embedder.embed(["What is the capital of France?", "Quelle heure est-il ?"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    before = model.stat()
    assert prepare_embedder(profile, catalog, home).stat() == before, "it is made once"


def test_two_homes_of_the_same_models_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, profile, catalog, home = made_and_fetched("bert", tmp_path)
    fetch(profile, catalog, home)
    made: list[Path] = []

    def slowly(weights: Path, config: Path, target: Path) -> None:
        made.append(target)
        time.sleep(0.2)
        export(weights, config, target)

    monkeypatch.setattr(deployments.embedding.export, "export", slowly)
    with ThreadPoolExecutor() as both:
        found = list(both.map(lambda _: prepare_embedder(profile, catalog, home), range(2)))
    assert found == [home.embedder_file("tiny")] * 2 and len(made) == 1


def test_a_model_that_there_is_no_graph_of_is_told(tmp_path: Path) -> None:
    made, profile, catalog, home = made_and_fetched("bert", tmp_path)
    made.change(model_type="gpt2")
    fetch(profile, catalog, home)
    with pytest.raises(DownloadError, match=r"no embedder can be made of tiny: .*'gpt2'"):
        prepare_embedder(profile, catalog, home)


@pytest.mark.parametrize("name", CATALOG.embedders)
def test_every_embedder_of_the_catalog_can_be_named_in_a_profile(name: str, tmp_path: Path) -> None:
    profile = load_profile("cpu").model_copy(update={"embedder": name})
    profile.check_against(CATALOG)
    files = [file for file in wanted(profile, CATALOG, Home(tmp_path)) if file.name == name]
    assert [file.target for file in files] == [
        tmp_path / "models" / name / part for part in ("model.safetensors", "tokenizer.json", "config.json")
    ]
