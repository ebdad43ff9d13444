"""Graphs of small models with random weights, held against transformers, which made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.embedding.weights import ExportError, Weights
from tests.deployments.embedding.tiny import KINDS, LENGTHS, Floats, make, run

TABLES = {
    "bert": "embeddings.word_embeddings.weight",
    "modernbert": "embeddings.tok_embeddings.weight",
    "qwen3": "embed_tokens.weight",
}


def cosines(one: Floats, other: Floats) -> Floats:
    return np.asarray(np.sum(one * other, axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fp32_graph_is_the_model(kind: str, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    assert cosines(made.exported(int8=False), made.expected).min() > 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_int8_stays_near(kind: str, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    assert cosines(made.exported(int8=True), made.expected).min() > 0.98
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_files_are_read(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    made = make(kind, tmp_path, dtype)
    precision, _ = Weights(tmp_path / "model.safetensors").kept(TABLES[kind])
    assert precision == {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    assert cosines(made.exported(int8=False), made.expected).min() > 0.9999
    assert cosines(made.exported(int8=True), made.expected).min() > 0.98


@pytest.mark.parametrize("kind", ["modernbert", "qwen3"])
@pytest.mark.parametrize("int8", [True, False])
def test_a_texts_vector_is_the_same_in_any_company(kind: str, int8: bool, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    model = made.export(int8=int8)
    together = run(model, made.ids, made.mask)
    other = np.where(made.mask, made.ids, 99)  # Another filling.
    np.testing.assert_allclose(run(model, other, made.mask), together, atol=1e-6)
    for row, length in enumerate(LENGTHS):
        alone = run(model, made.ids[row : row + 1, :length], made.mask[row : row + 1, :length])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_modernbert_layers_are_local_but_for_every_third(tmp_path: Path) -> None:
    made = make("modernbert", tmp_path)
    same = {"rope_type": "default", "rope_theta": 10_000.0}
    made.change(rope_parameters={"full_attention": same, "sliding_attention": same})
    plain = made.exported(int8=False)
    made.change(layer_types=["full_attention"] * 5)
    wide = cosines(made.exported(int8=False), plain)
    assert wide[LENGTHS.index(5)] > 0.9999 > 0.99 > wide[LENGTHS.index(40)], "none is far away in a short text"


def test_configs_of_the_hub_are_of_an_older_form(tmp_path: Path) -> None:
    made = make("modernbert", tmp_path)
    made.change(
        layer_types=None,
        rope_parameters=None,
        global_attn_every_n_layers=3,
        global_rope_theta=160000.0,
        local_rope_theta=10000.0,
    )
    assert cosines(made.exported(int8=False), made.expected).min() > 0.9999
    other = make("qwen3", tmp_path)
    other.change(rope_parameters=None, rope_theta=1000000, rope_scaling=None, use_sliding_window=False)
    assert cosines(other.exported(int8=False), other.expected).min() > 0.9999


def test_names_may_begin_with_model(tmp_path: Path) -> None:
    made = make("qwen3", tmp_path)
    path = tmp_path / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    named = json.dumps({name if name[0] == "_" else f"model.{name}": entry for name, entry in header.items()})
    path.write_bytes(len(named).to_bytes(8, "little") + named.encode() + raw[8 + size :])
    assert cosines(made.exported(int8=False), made.expected).min() > 0.9999


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("bert", {"model_type": "gpt2"}, r"model_type is 'gpt2'; there are graphs of bert, modernbert, qwen3"),
        ("bert", {"model_type": None}, r"model_type is None"),
        ("bert", {"num_attention_heads": None}, r"'num_attention_heads' is not there"),
        ("bert", {"hidden_act": "relu"}, r"hidden_act is 'relu', and only 'gelu'"),
        ("bert", {"num_hidden_layers": 4}, r"no tensor 'encoder\.layer\.3\.attention\.self\.query\.weight'"),
        ("modernbert", {"hidden_activation": "silu"}, r"hidden_activation is 'silu'"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, r"rope_type 'yarn'"),
        ("qwen3", {"use_sliding_window": True}, r"use_sliding_window is True"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1}}, r"rope_type is 'yarn'"),
    ],
)
def test_what_cannot_be_built_is_told(kind: str, change: dict[str, object], told: str, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    made.change(**change)
    with pytest.raises(ExportError, match=told):
        made.export()
    assert not list(tmp_path.glob("*.onnx"))


def test_tensors_of_integers_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}})
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(ExportError, match=r"x is I64; known are F32, F16, BF16"):
        Weights(path)["x"]


def test_a_model_beyond_one_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.embedding.graph.MOST_BYTES", 10_000)
    with pytest.raises(ExportError, match="too large"):
        make("qwen3", tmp_path).export()
