"""A PEFT adapter's two files, read: what each matrix is changed by.

Knows nothing of the model that it changes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.publish.errors import ExportError

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)

_PREFIX = "base_model.model."
_PART = re.compile(
    r"^(?P<module>.+)\.lora_(?P<side>[AB])\.weight$|^(?P<embedding>.+)\.lora_embedding_(?P<which>[AB])$"
)


@dataclass(frozen=True)
class Change:
    """The matrix `weight` (out, in) becomes `weight + scale * up @ down`."""

    module: str
    """As the model names it, `model.layers.0.self_attn.q_proj`."""
    down: torch.Tensor
    """A: (rank, in)."""
    up: torch.Tensor
    """B: (out, rank)."""
    scale: float


@dataclass(frozen=True)
class Adapter:
    """What its files say. Raises `ExportError` where they are none, or not LoRA."""

    folder: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        try:
            config = json.loads((folder / CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise ExportError(f"{folder.name} holds no adapter of PEFT: {error}") from None
        if not isinstance(config, dict) or config.get("peft_type") != "LORA":
            raise ExportError(f"{folder.name} holds no LoRA adapter, which is all that can be exported")
        if not (folder / WEIGHTS).is_file():
            raise ExportError(f"{folder.name} has no {WEIGHTS}")
        return cls(folder, config)

    @property
    def alpha(self) -> float:
        return float(self.config["lora_alpha"])

    def refuse_what_gguf_cannot_hold(self) -> None:
        """llama.cpp knows plain LoRA only."""
        found = [
            name
            for name, used in (
                ("DoRA", self.config.get("use_dora")),
                ("biases", self.config.get("bias", "none") != "none" or self.config.get("lora_bias")),
                ("whole matrices (modules_to_save)", self.config.get("modules_to_save")),
                ("single tokens (trainable_token_indices)", self.config.get("trainable_token_indices")),
                ("weights of transposed layers (fan_in_fan_out)", self.config.get("fan_in_fan_out")),
            )
            if used
        ]
        if found:
            raise ExportError(f"llama.cpp's adapters hold no {' and no '.join(found)}: merge it, and export that")

    def scale(self, module: str, rank: int) -> float:
        """What `up @ down` counts for."""
        alpha = _by_pattern(self.config.get("alpha_pattern") or {}, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def changes(self) -> Iterator[Change]:
        """Each matrix's, by name. One at a time is in memory."""
        from safetensors import safe_open

        with safe_open(self.folder / WEIGHTS, framework="pt") as file:
            halves: dict[str, dict[str, str]] = {}
            for key in sorted(file.keys()):
                module, side = _parse(key)
                halves.setdefault(module, {})[side] = key
            for module, keys in halves.items():
                if set(keys) != {"A", "B"}:
                    raise ExportError(f"{module} has only half a change")
                down, up = file.get_tensor(keys["A"]), file.get_tensor(keys["B"])
                if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
                    raise ExportError(
                        f"{module}: {tuple(up.shape)} times {tuple(down.shape)} is no change of a matrix"
                    )
                yield Change(module, down, up, self.scale(module, down.shape[0]))


def _parse(key: str) -> tuple[str, str]:
    """The module, and A or B."""
    found = _PART.match(key)
    if found is None:
        raise ExportError(f"{key} is no part of a LoRA adapter that could be exported")
    if found["embedding"]:
        raise ExportError("an adapter of the embeddings cannot be exported as such: merge it, and export that")
    return found["module"].removeprefix(_PREFIX), found["side"]


def _by_pattern(patterns: dict[str, float], module: str, otherwise: float) -> float:
    """As PEFT looks them up: a pattern is the end of a name, or a regular expression for one."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return otherwise
