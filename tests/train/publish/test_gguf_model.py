"""A merged model for llama.cpp: its answers, its types, and what it takes from its base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.train.publish.conftest import MOST_TOKENS
from tests.train.publish.tiny import FAMILIES, TEMPLATE, WIDTHS, Family, make_adapter, make_gguf, make_model
from train.publish import asking_llama
from train.publish.errors import ExportError
from train.publish.gguf_model import write_model_gguf
from train.publish.likeness import Likeness, liken
from train.publish.merging import merge
from train.publish.probing import Reference

Asked = Callable[[Path, Path], Reference]


def in_llama(asked: Reference, model: Path) -> tuple[list[int], Likeness]:
    logits = asked.scratch / "merged.npz"
    said = asking_llama.ask(str(model), None, asked.prompt, asked.tokens, MOST_TOKENS, str(logits), threads=1)
    with np.load(logits) as kept:
        return said["tokens"], liken(asked.tuned, asked.base, kept["tuned"])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_as_the_adapter_does(
    family: Family, models: dict[str, Path], ggufs: dict[str, Path], asked: Asked, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", models[family], targets=tuple(WIDTHS))
    merge(str(models[family]), str(adapter), str(tmp_path / "merged"))
    reference = asked(models[family], adapter)
    likenesses = {}
    for quantization in ("F32", "BF16", "F16", "Q8_0", "Q4_0"):
        made = tmp_path / f"{quantization}.gguf"
        write_model_gguf(str(tmp_path / "merged"), str(ggufs[family]), str(made), quantization, "tuned", 1)
        tokens, likenesses[quantization] = in_llama(reference, made)
        if quantization == "F32":
            assert tokens == reference.tokens
    assert likenesses["F32"].change > 0.5
    assert likenesses["F32"].error < 0.01 * likenesses["F32"].change
    assert likenesses["F16"].is_exact
    assert likenesses["BF16"].is_exact
    assert likenesses["Q8_0"].is_near
    assert likenesses["F32"].error < likenesses["Q8_0"].error < likenesses["Q4_0"].error
    assert not list(tmp_path.glob(".*")), "nothing half made stays"
    reader = gguf.GGUFReader(tmp_path / "Q8_0.gguf")
    assert reader.fields["general.name"].contents() == "tuned"
    assert reader.fields["tokenizer.chat_template"].contents() == TEMPLATE
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 259
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.ffn_gate.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"
    assert ("output.weight" in types) is (family != "llama")


def test_factors_of_the_base_that_are_no_weights_stay(models: dict[str, Path], tmp_path: Path) -> None:
    base = make_gguf(models["qwen2"], tmp_path / "base.gguf")
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(tmp_path / "factored.gguf", "qwen2")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    factors = np.linspace(1, 2, 8, dtype=np.float32)
    writer.add_tensor("rope_factors_long.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_model_gguf(
        str(models["qwen2"]), str(tmp_path / "factored.gguf"), str(tmp_path / "made.gguf"), "F16", "x", 1
    )
    made = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "made.gguf").tensors}
    assert np.array_equal(made["rope_factors_long.weight"], factors)


def test_several_files_are_one_model(models: dict[str, Path], ggufs: dict[str, Path], tmp_path: Path) -> None:
    cut = make_model(tmp_path / "cut", "qwen3")
    tensors = load_file(cut / "model.safetensors")
    (cut / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, cut / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, cut / "model-00002-of-00002.safetensors")
    write_model_gguf(str(cut), str(ggufs["qwen3"]), str(tmp_path / "made.gguf"), "F32", "tiny qwen3", 1)
    assert (tmp_path / "made.gguf").read_bytes() == ggufs["qwen3"].read_bytes()


def test_a_base_of_another_kind_and_values_too_large_are_refused(
    models: dict[str, Path], ggufs: dict[str, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.gguf"
    with pytest.raises(ExportError, match=r"is llama, the model is qwen3"):
        write_model_gguf(str(models["qwen3"]), str(ggufs["llama"]), str(made), "F16", "x", 1)
    large = make_model(tmp_path / "large", "qwen3")
    tensors = load_file(large / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: np.full_like(tensors[name], 1e6)}, large / "model.safetensors")
    with pytest.raises(ExportError, match="too large for F16"):
        write_model_gguf(str(large), str(ggufs["qwen3"]), str(made), "F16", "x", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text((models["qwen3"] / "config.json").read_text())
    with pytest.raises(ExportError, match="no safetensors"):
        write_model_gguf(str(tmp_path / "empty"), str(ggufs["qwen3"]), str(made), "F16", "x", 1)
    assert not list(tmp_path.glob("*made*"))
