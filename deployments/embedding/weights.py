"""Tensors of a safetensors file, read one at a time: a large model never stands in memory as a whole.

`safetensors.numpy` knows no bfloat16, because numpy has none; here it is widened by hand. What the tensors are for
is for others to know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]

_KEPT_AS: dict[str, npt.DTypeLike] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Numpy's type of each precision; of bfloat16, its bits."""


class ExportError(ValueError):
    """A model of which no graph can be made; the message says why."""


class Weights:
    """The tensors of one file. A leading `model.` of their names is left out: some files have it, of the very same
    architecture, and some have not."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
        header.pop("__metadata__", None)
        self._path, self._start = path, 8 + size
        self._header = {name.removeprefix("model."): entry for name, entry in header.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def kept(self, name: str) -> tuple[str, Array]:
        """A tensor as it is kept: its precision (F32, F16 or BF16), and its values, of bfloat16 its bits. Raises
        `ExportError`."""
        if name not in self:
            raise ExportError(f"{self._path.name} has no tensor {name!r}, which config.json's model_type has")
        entry = self._header[name]
        precision, (start, end) = entry["dtype"], entry["data_offsets"]
        if precision not in _KEPT_AS:
            raise ExportError(f"{self._path.name}: {name} is {precision}; known are {', '.join(_KEPT_AS)}")
        dtype = np.dtype(_KEPT_AS[precision])
        count, offset = (end - start) // dtype.itemsize, self._start + start
        # (Not memory-mapped: a tensor may begin at any byte, and the page cache keeps the file either way.)
        return precision, np.fromfile(self._path, dtype, count, offset=offset).reshape(entry["shape"])

    def __getitem__(self, name: str) -> Floats:
        """A tensor as float32, which holds each of the precisions exactly. Raises `ExportError`."""
        precision, values = self.kept(name)
        if precision == "BF16":  # The upper half of a float32.
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)
