from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.catalog import Architecture, Catalog, Source, load_catalog
from configs.document import ConfigError
from configs.home import Home

CATALOG = load_catalog()
WISHED = {
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-14b",
    "qwen3-32b",
    "qwen3-32b-thinking",
    "qwen3-coder-30b",
    "qwen3-vl",
    "qwen3-vl-32b-thinking",
    "qwen3-mt",
}


def test_every_wished_variant_is_in_the_catalog() -> None:
    assert set(CATALOG.variants) >= WISHED


@pytest.mark.parametrize("name", CATALOG.variants)
def test_every_gguf_and_every_cut_file_is_pinned(name: str) -> None:
    spec = CATALOG.variants[name]
    if spec.source.filename.endswith(".gguf") or spec.source.parts:
        assert spec.source.sha256 is not None
        assert spec.source.bytes is not None


def test_embedders_of_the_catalog() -> None:
    sizes = {name: spec.dimensions for name, spec in CATALOG.embedders.items()}
    assert sizes == {"all-minilm-l6-v2": 384, "langcache-embed": 768, "qwen3-embedding-0.6b": 1024}
    for name, spec in CATALOG.embedders.items():
        pinned = {source.sha256 is not None for source in (spec.weights, spec.tokenizer)}
        assert pinned == {name != "langcache-embed"}, "its checksums are not known"


@pytest.mark.parametrize("name", CATALOG.variants)
def test_a_variants_numbers_agree_with_each_other(name: str) -> None:
    spec = CATALOG.variants[name]
    assert spec.max_output <= spec.context
    assert (spec.extended_context or spec.context) >= spec.context
    assert (spec.active_parameters_b or 0) < spec.parameters_b
    if spec.source.bytes:
        assert spec.memory_mb >= spec.source.bytes / 2**20, "the weights alone take more"
    if spec.thinking_budget:
        assert "thinking" in spec.capabilities
        assert spec.thinking_budget < spec.max_output
    assert "chat" in spec.capabilities


def test_roles_of_the_wished_variants() -> None:
    has = {name: CATALOG.variants[name].capabilities for name in WISHED}
    assert {name for name in WISHED if "vision" in has[name]} == {"qwen3-vl", "qwen3-vl-32b-thinking"}
    assert "translation" in has["qwen3-mt"]
    assert "code" in has["qwen3-coder-30b"]
    assert all("tools" in capabilities for capabilities in has.values())
    thinking = CATALOG.variants["qwen3-32b-thinking"]
    assert thinking.source == CATALOG.variants["qwen3-32b"].source
    assert thinking.template_kwargs == {"enable_thinking": True}


def test_an_unknown_variant_is_told_with_those_that_there_are() -> None:
    assert CATALOG.variant("qwen3-8b").title == "Qwen3 8B"
    with pytest.raises(ConfigError, match=r"'qwen9'.*qwen3-14b"):
        CATALOG.variant("qwen9")


def test_the_uris_of_parts_are_numbered_from_one() -> None:
    cut = Source(uri="pypi:name-{n}==1.0/dir/part{nn}.bin", parts=11)
    assert len(cut.uris) == 11
    assert cut.uris[0] == "pypi:name-1==1.0/dir/part01.bin"
    assert cut.uris[10] == "pypi:name-11==1.0/dir/part11.bin"
    whole = Source(uri="hf:Qwen/Qwen3-8B-GGUF/Qwen3-8B.gguf@abc123")
    assert whole.uris == ["hf:Qwen/Qwen3-8B-GGUF/Qwen3-8B.gguf@abc123"]
    assert whole.filename == "Qwen3-8B.gguf"


def test_a_cut_file_lies_joined_under_its_variants_name() -> None:
    home = Home(Path("/h"))
    cut, whole = Source(uri="file:/x/part{n}", parts=2), Source(uri="hf:o/r/w.gguf@main")
    assert home.model_file("tiny", cut) == Path("/h/models/tiny/tiny.gguf")
    assert home.model_file("tiny", whole) == Path("/h/models/tiny/w.gguf")


@pytest.mark.parametrize(
    "fields",
    [
        {"uri": "http://x/y"},
        {"uri": "hf:a", "sha256": "abc"},
        {"uri": "hf:a", "parts": 0},
        {"uri": "hf:a", "size": 1},
    ],
)
def test_a_wrong_source_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate(fields)


def test_names_are_plain() -> None:
    spec = CATALOG.variants["qwen3-8b"]
    for name in ("Qwen3", "a/b", "a b", ""):
        with pytest.raises(ValidationError, match="lower-case"):
            Catalog(variants={name: spec}, embedders={})


def test_kv_cache_bytes_of_a_token() -> None:
    assert Architecture(layers=36, kv_heads=8, head_dim=128).kv_bytes_per_token() == 147_456
