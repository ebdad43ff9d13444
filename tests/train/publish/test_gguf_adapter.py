"""A PEFT adapter for llama.cpp: the same tensors as llama.cpp's own converter makes, and the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.train.publish.conftest import MOST_TOKENS
from tests.train.publish.golden import GOLDEN, contents
from tests.train.publish.tiny import FAMILIES, WIDTHS, Family, make_adapter, make_model
from train.publish import asking_llama, gguf_names
from train.publish.errors import ExportError
from train.publish.gguf_adapter import Precision, write_adapter_gguf
from train.publish.likeness import Likeness, liken
from train.publish.probing import Reference

Asked = Callable[[Path, Path], Reference]


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()))
def test_the_file_is_what_llama_cpps_own_converter_writes(
    case: str, models: dict[str, Path], tmp_path: Path
) -> None:
    family, precision = case.split("-")
    adapter = make_adapter(tmp_path / "adapter", models[family], targets=tuple(WIDTHS))
    made = tmp_path / "adapter.gguf"
    write_adapter_gguf(adapter, models[family], made, "f16" if precision == "f16" else "f32")
    assert contents(made) == json.loads(GOLDEN.read_text())[case]


def in_llama(asked: Reference, model: Path, adapter: Path) -> tuple[list[int], Likeness]:
    """Its own greedy tokens, and how like the adapter in PEFT it is."""
    logits = asked.scratch / "llama.npz"
    said = asking_llama.ask(
        str(model), str(adapter), asked.prompt, asked.tokens, MOST_TOKENS, str(logits), threads=1
    )
    with np.load(logits) as kept:
        return said["tokens"], liken(asked.tuned, asked.base, kept["tuned"], kept["base"])


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_answers_with_it_as_peft_does(
    family: Family, models: dict[str, Path], ggufs: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models[family], targets=tuple(WIDTHS))
    made = tmp_path / "adapter.gguf"
    write_adapter_gguf(adapter, models[family], made, "f32")
    reference = asked(models[family], adapter)
    tokens, likeness = in_llama(reference, ggufs[family], made)
    assert tokens == reference.tokens
    assert likeness.change > 0.5
    assert likeness.error < 0.01 * likeness.change
    assert likeness.noise < 0.01
    assert likeness.is_exact


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"ranks": {"q_proj": 2, "k_proj": 8}, "alpha_pattern": {"v_proj": 3, "layers.1.self_attn.q_proj": 20}},
        {"alpha": 0, "alpha_pattern": {"q_proj": 16}},
    ],
)
def test_each_matrix_counts_for_what_peft_says(
    config: dict[str, Any], models: dict[str, Path], ggufs: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["qwen3"], **config)
    made = tmp_path / "adapter.gguf"
    write_adapter_gguf(adapter, models["qwen3"], made, "f32")
    reference = asked(models["qwen3"], adapter)
    _, likeness = in_llama(reference, ggufs["qwen3"], made)
    assert likeness.change > 0.2
    assert likeness.error < 0.01 * likeness.change


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_rows_in_the_wrong_order_are_seen(
    precision: Precision,
    models: dict[str, Path],
    ggufs: dict[str, Path],
    asked: Asked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make_adapter(
        tmp_path / "adapter", models["llama"], targets=("self_attn.q_proj", "self_attn.k_proj"), strength=2
    )
    right, wrong = tmp_path / "right.gguf", tmp_path / "wrong.gguf"
    write_adapter_gguf(adapter, models["llama"], right, precision)
    monkeypatch.setattr(gguf_names, "permute", lambda rows, heads: rows)
    write_adapter_gguf(adapter, models["llama"], wrong, precision)
    reference = asked(models["llama"], adapter)
    assert in_llama(reference, ggufs["llama"], right)[1].is_exact
    assert not in_llama(reference, ggufs["llama"], wrong)[1].is_exact


def test_an_adapter_of_another_model_is_refused_by_llama_cpp(
    models: dict[str, Path], ggufs: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["qwen3"])
    made = tmp_path / "adapter.gguf"
    write_adapter_gguf(adapter, models["qwen3"], made)
    with pytest.raises(ExportError, match="as an adapter of its base"):
        in_llama(asked(models["qwen3"], adapter), ggufs["qwen2"], made)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "no LoRA adapter"),
    ],
)
def test_what_a_gguf_adapter_cannot_hold_is_refused(
    config: dict[str, Any], words: str, models: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["llama"], **config)
    with pytest.raises(ExportError, match=words):
        write_adapter_gguf(adapter, models["llama"], tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({A: None}, "only half"),
        ({A: np.zeros((3, 64), np.float32)}, "no change of a matrix"),
        ({A: np.full((4, 64), np.nan, np.float32)}, "no numbers"),
        ({"base_model.model.model.norm.weight": np.zeros(64, np.float32)}, "no part of a LoRA adapter"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 259), np.float32)}, "embeddings"),
        (
            {
                "base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32),
                "base_model.model.lm_head.lora_B.weight": np.zeros((259, 4), np.float32),
            },
            "which is the embedding's",
        ),
        (
            {
                "base_model.model.model.layers.0.router.lora_A.weight": np.zeros((4, 64), np.float32),
                "base_model.model.model.layers.0.router.lora_B.weight": np.zeros((8, 4), np.float32),
            },
            "has no name in llama.cpp",
        ),
    ],
)
def test_broken_and_strange_tensors_are_refused(
    changed: dict[str, Any], words: str, models: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["llama"])
    file = adapter / "adapter_model.safetensors"
    tensors = {**load_file(file), **changed}
    save_file({name: values for name, values in tensors.items() if values is not None}, file)
    with pytest.raises(ExportError, match=words):
        write_adapter_gguf(adapter, models["llama"], tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


def test_values_beyond_f16_stay_wide(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["qwen2"])
    file = adapter / "adapter_model.safetensors"
    save_file({**load_file(file), A: np.full((4, 64), 1e6, np.float32)}, file)
    write_adapter_gguf(adapter, models["qwen2"], tmp_path / "adapter.gguf")
    tensors = contents(tmp_path / "adapter.gguf")["tensors"]
    assert tensors["blk.0.attn_q.weight.lora_a"][0] == "F32"
    assert tensors["blk.0.attn_q.weight.lora_b"][0] == "F16"


def test_another_family_and_no_model_are_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "qwen3")
    adapter = make_adapter(tmp_path / "adapter", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    with pytest.raises(ExportError, match="MambaForCausalLM cannot be written"):
        write_adapter_gguf(adapter, model, tmp_path / "adapter.gguf")
    with pytest.raises(ExportError, match="no model of transformers"):
        write_adapter_gguf(adapter, tmp_path / "nowhere", tmp_path / "adapter.gguf")
    with pytest.raises(ExportError, match="no adapter of PEFT"):
        write_adapter_gguf(tmp_path, model, tmp_path / "adapter.gguf")
