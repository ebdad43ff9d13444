"""Adapters made by hand: of random numbers, so that they answer another thing than their base does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.adapters import AdapterManifest, Export, Gate, sha256_of, write_adapter
from configs.training import Recipe

RANK, ALPHA = 8, 16
LAYERS, HIDDEN = 30, 576
"""Of SmolLM2-135M, whose query projections are square."""

QUESTION = "What is the capital of France? Answer in one sentence."
TOKENS = 6
NOISE = ((0.13, 7), (0.16, 5), (0.16, 9), (0.13, 14))
"""Scales and seeds that were looked for: asked `QUESTION`, such an adapter is sure (by 0.4 nats and more) of each
of its first `TOKENS` tokens, which are not its base's. So it says the same whatever is beside it in a batch."""

Matrices = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def matrices(which: int) -> Iterator[Matrices]:
    """Of each layer's query projection: A (RANK, HIDDEN), B (HIDDEN, RANK)."""
    scale, seed = NOISE[which]
    rng = np.random.default_rng(seed)
    for _ in range(LAYERS):
        first = rng.normal(0, 0.12, (RANK, HIDDEN)).astype(np.float32) * np.float32(scale / 0.12)
        second = rng.normal(0, 0.12, (HIDDEN, RANK)).astype(np.float32) * np.float32(scale / 0.12)
        yield first, second


def gguf_adapter(path: Path, which: int = 0) -> Path:
    """For llama.cpp, written with the gguf package."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for layer, (first, second) in enumerate(matrices(which)):
        writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_a", first)
        writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_b", second)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def peft_adapter(folder: Path, which: int = 0) -> Path:
    """For vLLM and PEFT."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**told, "target_modules": ["q_proj"]}))
    weights = {}
    for layer, (first, second) in enumerate(matrices(which)):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights |= {f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def published(adapters: Path, name: str, base: str, forms: dict[str, str], **known: Any) -> AdapterManifest:
    """The manifest of an adapter whose exports (form → path in its folder) lie there, written. It has passed its
    gate, where nothing else is said."""
    folder = adapters / name
    exports = {}
    for form, path in forms.items():
        files = [one for one in [folder / path, *(folder / path).rglob("*")] if one.is_file()]
        size = sum(one.stat().st_size for one in files)
        exports[form] = Export(path=path, bytes=size, sha256=sha256_of(folder / path))
    manifest = AdapterManifest.model_validate(
        {
            "name": name,
            "base": base,
            "created": 1_790_000_000.0,
            "data_hash": "0" * 64,
            "recipe": Recipe.model_validate({}),
            "exports": exports,
            "gate": Gate(passed=True),
            **known,
        }
    )
    write_adapter(folder, manifest)
    return manifest
