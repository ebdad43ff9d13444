"""How llama.cpp names and orders what transformers names and orders otherwise.

The names come from the `gguf` package. The order is llama.cpp's own: for the Llama family its rotary embedding
turns neighbouring values of a head, where transformers turns those of its two halves; so the rows of the query's
and the key's matrices are permuted (`LlamaModel.permute` in llama.cpp's `conversion/llama.py`). Qwen's are not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.publish.errors import ExportError

if TYPE_CHECKING:
    import torch

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""By the class that transformers names in a model's config: llama.cpp's name of the architecture."""


@dataclass(frozen=True)
class Names:
    """Of one model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    """The output's matrix is the embedding's."""

    @classmethod
    def of(cls, weights: Path) -> Names:
        """Of a model's folder. Raises `ExportError` for one whose order is not known here."""
        config = read_config(weights)
        family = (config.get("architectures") or ["a model without a name"])[0]
        if family not in FAMILIES:
            raise ExportError(f"{family} cannot be written for llama.cpp; {', '.join(FAMILIES)} can")
        heads = int(config["num_attention_heads"])
        return cls(
            FAMILIES[family],
            int(config["num_hidden_layers"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            bool(config.get("tie_word_embeddings", False)),
        )

    def gguf(self, name: str) -> str:
        """llama.cpp's name of a tensor, `blk.0.attn_q.weight`. Raises `ExportError`."""
        found = _name_map(self.architecture, self.layers).get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ExportError(f"{name} has no name in llama.cpp's {self.architecture}")
        return str(found)

    def ordered(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """`rows` (out, …) of the tensor that transformers calls `name`, in llama.cpp's order."""
        if self.architecture != "llama":
            return rows
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            return permute(rows, self.heads)
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            return permute(rows, self.kv_heads)
        return rows


@lru_cache(maxsize=4)
def _name_map(architecture: str, layers: int) -> Any:
    import gguf

    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(numbers[architecture], layers)


def permute(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """(heads × 2 × half, …): a head's two halves, interleaved."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def read_config(weights: Path) -> dict[str, Any]:
    """A model's `config.json`. Raises `ExportError`."""
    try:
        config = json.loads((weights / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ExportError(f"{weights} holds no model of transformers: {error}") from None
    if not isinstance(config, dict):
        raise ExportError(f"{weights} holds no model of transformers: its config is no object")
    return config
