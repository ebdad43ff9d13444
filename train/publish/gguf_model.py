"""A merged model for llama.cpp: its tensors, and all else (vocabulary, template, shape) from the base's GGUF file.

What llama.cpp calls a tensor and how it orders it is in `gguf_names.py`; the few bits are made by llama.cpp itself
(`llama_model_quantize`), so that every type that it knows can be had.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from train.publish.errors import ExportError
from train.publish.gguf_names import Names
from train.publish.tensors import open_tensors

if TYPE_CHECKING:
    import torch

QUANTIZATIONS = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
"""From the largest to the smallest."""

Stored = npt.NDArray[Any]

_WHOLE = {"F32", "F16", "BF16"}
_NOT_THE_BASES = ("general.architecture", "general.file_type", "general.quantization_version", "general.name")
_NOT_THE_BASES_GROUPS = ("GGUF.", "split.", "quantize.imatrix.")


def write_model_gguf(
    merged: str, base_gguf: str, target: str, quantization: str, name: str, threads: int
) -> dict[str, Any]:
    """Write `target`, in one step. Raises `ExportError`, `OSError`."""
    path = Path(target)
    staged = path.with_name(f".{path.name}.new")
    whole = path.with_name(f".{path.name}.whole")
    try:
        if quantization in _WHOLE:
            _write_whole(Path(merged), Path(base_gguf), staged, quantization, name)
        else:
            _write_whole(Path(merged), Path(base_gguf), whole, "BF16", name)
            _quantize(whole, staged, quantization, threads)
        staged.replace(path)
    finally:
        for left in (staged, whole):
            left.unlink(missing_ok=True)
    return {}


def _write_whole(merged: Path, base_gguf: Path, target: Path, precision: str, name: str) -> None:
    import gguf

    names = Names.of(merged)
    base = gguf.GGUFReader(base_gguf)
    writer = gguf.GGUFWriter(target, names.architecture)
    _copy_fields(base, writer, names, base_gguf)
    writer.add_name(name)
    writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if precision == "F32" else f"MOSTLY_{precision}"))
    with open_tensors(merged) as tensors:
        planned = {names.gguf(one): one for one in tensors.names() if not (names.tied and one == "lm_head.weight")}
        kept = _not_in_transformers(base, planned)
        for here, one in planned.items():
            shape = tensors.shape(one)
            kind = _kind(shape, precision)
            width = 2 if kind.name == "BF16" else 1
            stored = (*shape[:-1], shape[-1] * width)
            dtype = {"F32": np.float32, "F16": np.float16, "BF16": np.uint8}[kind.name]
            size = int(np.prod(stored)) * np.dtype(dtype).itemsize
            writer.add_tensor_info(here, stored, np.dtype(dtype), size, raw_dtype=kind)
        for tensor in kept:
            writer.add_tensor_info(
                tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, raw_dtype=tensor.tensor_type
            )
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for one in planned.values():
                values = names.ordered(one, tensors.read(one))
                writer.write_tensor_data(_stored(values, _kind(tensors.shape(one), precision).name))
            for tensor in kept:
                writer.write_tensor_data(tensor.data)
        finally:
            writer.close()


def _kind(shape: tuple[int, ...], precision: str) -> Any:
    import gguf

    # Norms and biases are few values, and all types but this one cost them more than they save.
    return gguf.GGMLQuantizationType["F32" if len(shape) == 1 else precision]


def _stored(values: torch.Tensor, kind: str) -> Stored:
    import torch

    if kind == "BF16":
        return cast(Stored, values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy())
    wide = values.to(torch.float16 if kind == "F16" else torch.float32).contiguous()
    if kind == "F16" and not torch.isfinite(wide).all():
        raise ExportError("a value is too large for F16: take BF16")
    return cast(Stored, wide.numpy())


def _copy_fields(base: Any, writer: Any, names: Names, path: Path) -> None:
    """The base's metadata: shape, vocabulary, template."""
    said = base.get_field("general.architecture")
    if said is None or said.contents() != names.architecture:
        raise ExportError(
            f"{path.name} is {said.contents() if said else 'nothing'}, the model is {names.architecture}"
        )
    for field in base.fields.values():
        if field.name in _NOT_THE_BASES or field.name.startswith(_NOT_THE_BASES_GROUPS):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)


def _not_in_transformers(base: Any, planned: dict[str, str]) -> list[Any]:
    """What llama.cpp keeps beside the weights: the factors of stretched rotary embeddings."""
    return [tensor for tensor in base.tensors if tensor.name.startswith("rope_") and tensor.name not in planned]


def _quantize(source: Path, target: Path, quantization: str, threads: int) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    params.nthread = threads
    llama_cpp.llama_backend_init()
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if failed:
        raise ExportError(f"llama.cpp could not make {quantization} of it (it answered {failed})")
