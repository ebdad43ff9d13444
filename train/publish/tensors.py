"""The tensors of a model's folder, by name, whether they lie in one safetensors file or in several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.publish.errors import ExportError

if TYPE_CHECKING:
    import torch


class Tensors:
    """Read one at a time."""

    def __init__(self, files: list[Any]) -> None:
        self._at = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def names(self) -> list[str]:
        return sorted(self._at)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._at[name].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        return self._at[name].get_tensor(name)


@contextmanager
def open_tensors(folder: Path) -> Iterator[Tensors]:
    """Raises `ExportError` where there are none."""
    from safetensors import safe_open

    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ExportError(f"{folder} holds no safetensors")
    with ExitStack() as stack:
        yield Tensors([stack.enter_context(safe_open(path, framework="pt")) for path in paths])
