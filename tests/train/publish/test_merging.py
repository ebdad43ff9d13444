"""Base and adapter as one: the same logits as PEFT's, whether embeddings are shared or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.train.publish.conftest import MOST_TOKENS, QUESTION
from tests.train.publish.tiny import FAMILIES, HIDDEN, WIDTHS, Family, make_adapter, make_model, vocabulary
from train.publish.asking import ask
from train.publish.errors import ExportError
from train.publish.gguf_names import read_config
from train.publish.likeness import Likeness, liken
from train.publish.merging import merge
from train.publish.probing import Reference

Asked = Callable[[Path, Path], Reference]


def in_transformers(asked: Reference, model: Path) -> tuple[list[int], Likeness]:
    logits = asked.scratch / "merged.npz"
    said = ask(str(model), None, QUESTION, MOST_TOKENS, str(logits), asked.prompt, asked.tokens)
    with np.load(logits) as kept:
        return said["tokens"], liken(asked.tuned, asked.base, kept["tuned"])


def add_output_change(adapter: Path, seed: int = 5) -> None:
    """An adapter of the output's matrix too."""
    file = adapter / "adapter_model.safetensors"
    random = np.random.default_rng(seed)
    name = "base_model.model.lm_head"
    more = {
        f"{name}.lora_A.weight": random.standard_normal((4, HIDDEN)).astype(np.float32) / 8,
        f"{name}.lora_B.weight": random.standard_normal((len(vocabulary()), 4)).astype(np.float32),
    }
    save_file({**load_file(file), **more}, file)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"].append("lm_head")
    (adapter / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_answers_as_peft_does(
    family: Family, models: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models[family], targets=tuple(WIDTHS), use_rslora=True)
    merge(str(models[family]), str(adapter), str(tmp_path / "merged"))
    reference = asked(models[family], adapter)
    tokens, likeness = in_transformers(reference, tmp_path / "merged")
    assert tokens == reference.tokens
    assert likeness.change > 0.5
    assert likeness.error < 1e-3 * likeness.change
    config = read_config(tmp_path / "merged")
    assert config["tie_word_embeddings"] is (family == "llama")
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="np") as file:
        assert ("lm_head.weight" in file.keys()) is (family != "llama")  # noqa: SIM118


def test_shared_embeddings_are_parted_where_the_adapter_changes_the_output(
    models: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["llama"])
    add_output_change(adapter)
    merge(str(models["llama"]), str(adapter), str(tmp_path / "merged"))
    assert read_config(tmp_path / "merged")["tie_word_embeddings"] is False
    with (
        safe_open(tmp_path / "merged" / "model.safetensors", framework="np") as merged,
        safe_open(models["llama"] / "model.safetensors", framework="np") as base,
    ):
        embedding = merged.get_tensor("model.embed_tokens.weight")
        assert np.array_equal(embedding, base.get_tensor("model.embed_tokens.weight")), "what is read stays"
        assert not np.allclose(embedding, merged.get_tensor("lm_head.weight"))
    reference = asked(models["llama"], adapter)
    tokens, likeness = in_transformers(reference, tmp_path / "merged")
    assert tokens == reference.tokens
    assert likeness.error < 1e-3 * likeness.change


def test_a_bf16_base_stays_bf16_and_is_rounded_once(asked: Asked, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen3", dtype="bfloat16")
    adapter = make_adapter(tmp_path / "adapter", base)
    merge(str(base), str(adapter), str(tmp_path / "merged"))
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    _, likeness = in_transformers(asked(base, adapter), tmp_path / "merged")
    assert likeness.error < 0.05 * likeness.change
    assert likeness.is_exact


def test_it_can_be_asked_by_itself(models: dict[str, Path], tmp_path: Path) -> None:
    merge(
        str(models["qwen2"]),
        str(make_adapter(tmp_path / "adapter", models["qwen2"])),
        str(tmp_path / "merged"),
    )
    said = ask(str(tmp_path / "merged"), None, QUESTION, 3, str(tmp_path / "logits.npz"))
    prompt = f"<user\n{QUESTION}>\n<assistant\n"
    assert len(said["prompt"]) == len(prompt), "the template came with it: each mark and each byte is a token"
    assert 1 <= len(said["tokens"]) <= 3


def test_what_cannot_be_merged_is_refused_and_leaves_what_was_there(
    models: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models["qwen2"])
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "kept").touch()
    file = adapter / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    save_file({**load_file(file), name: np.full((64, 4), np.inf, np.float32)}, file)
    with pytest.raises(ExportError, match="cannot be merged"):
        merge(str(models["qwen2"]), str(adapter), str(tmp_path / "merged"))
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    (quantized / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ExportError, match="is quantized"):
        merge(str(quantized), str(adapter), str(tmp_path / "merged"))
    assert [file.name for file in (tmp_path / "merged").iterdir()] == ["kept"]
