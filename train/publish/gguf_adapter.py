"""A PEFT adapter as llama.cpp loads it: a GGUF file with A and B of each matrix.

What llama.cpp's own `convert_lora_to_gguf.py` writes, which comes with no wheel: the tests hold the two against
each other. The file holds one alpha for all, and llama.cpp divides it by each matrix's rank; where PEFT scales a
matrix otherwise (patterns, rsLoRA) the difference goes into its B.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from train.publish.errors import ExportError
from train.publish.gguf_names import Names
from train.publish.lora import Adapter

if TYPE_CHECKING:
    import torch

Precision = Literal["f32", "f16"]
_F16_MOST = float(np.finfo(np.float16).max)


def write_adapter_gguf(peft: Path, weights: Path, target: Path, precision: Precision = "f16") -> None:
    """Write `target`, in one step; `weights` is the base's folder, of which only the config is read.

    Raises `ExportError` for what a GGUF adapter cannot hold, `OSError`.
    """
    import gguf

    adapter, names = Adapter.read(peft), Names.of(weights)
    adapter.refuse_what_gguf_cannot_hold()
    staged = target.with_name(f".{target.name}.new")
    writer = gguf.GGUFWriter(staged, names.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    for name, values in _tensors(adapter, names):
        if not np.isfinite(values).all():
            raise ExportError(f"{name} holds values that are no numbers: the training went wrong")
        fits = precision == "f16" and float(np.abs(values).max(initial=0.0)) <= _F16_MOST
        writer.add_tensor(name, values.astype(np.float16) if fits else values)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        staged.replace(target)
    finally:
        writer.close()
        staged.unlink(missing_ok=True)


def _tensors(adapter: Adapter, names: Names) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for change in adapter.changes():
        name = f"{change.module}.weight"
        if names.tied and change.module.endswith("lm_head"):
            raise ExportError(
                "an adapter of the output's matrix, which is the embedding's: merge it, and export that"
            )
        here = names.gguf(name)
        # (llama.cpp takes an alpha of 0 for none at all.)
        held = adapter.alpha / change.down.shape[0] if adapter.alpha else 1.0
        up = names.ordered(name, change.up.float()) * (change.scale / held)
        yield f"{here}.lora_a", _array(change.down.float())
        yield f"{here}.lora_b", _array(up)


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = tensor.contiguous().numpy()
    return values
