"""The base model of a job: the weights that are trained on, and the file that llama.cpp serves."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from configs.catalog import Catalog, Source, VariantSpec
from configs.home import Home
from groupqwen.downloads import DownloadError, fetch, fetch_repository, is_ready, made_of, make_folder
from groupqwen.models import WantedFile, dequantize, take_over

WHOLE = ("BF16", "FP16", "F16", "F32")
"""What a repository's weights must be in, to be trained on."""


def base_weights(home: Home, catalog: Catalog, variant: str) -> tuple[Path, Path | None]:
    """(folder as transformers reads it, GGUF file or None where llama.cpp has none) of a variant.

    What is missing is fetched, and a GGUF file is made into safetensors once, which takes several times the
    model's memory. Raises `DownloadError`; `ConfigError` where there is no such variant.
    """
    spec = catalog.variant(variant)
    if spec.engine == "remote":
        raise DownloadError(f"{variant} runs elsewhere: there are no weights of it to train")
    whole_repository = spec.engine == "vllm" and not spec.dequantize
    folder, gguf = home.model_folder(variant), None if whole_repository else _gguf(home, variant, spec)
    make_weights(home, catalog, variant, folder, gguf)
    return folder, gguf


def make_weights(home: Home, catalog: Catalog, variant: str, folder: Path, gguf: Path | None) -> None:
    """Fill `folder`, unless it is there: from the GGUF file, or where there is none from the variant's repository.

    Raises `DownloadError`; `ConfigError` where there is neither a file nor such a variant.
    """
    if gguf is None:
        spec = catalog.variant(variant)
        if spec.quantization not in WHOLE:
            raise DownloadError(
                f"{variant} is quantized ({spec.quantization}): train a variant of the same model whose weights "
                "are whole, or a GGUF"
            )
        make_folder(spec.source, folder, partial(fetch_repository, spec.source))
    elif gguf.is_file():
        # (One of a profile's own name is not in the catalog.)
        known = catalog.variants.get(variant)
        source = known.source if known is not None else Source(uri=f"file:{gguf}")
        ready = _made_for_another(home, catalog, source, folder)
        make_folder(source, folder, partial(_fill, gguf, ready))
    else:
        raise DownloadError(f"{gguf} is not there: `groupqwen models pull` fetches it")


def _gguf(home: Home, variant: str, spec: VariantSpec) -> Path:
    target = home.model_file(variant, spec.source)
    take_over([WantedFile(variant, spec.source, target)])
    if not is_ready(spec.source, target):
        fetch(spec.source, target)
    return target


def _made_for_another(home: Home, catalog: Catalog, source: Source, folder: Path) -> Path | None:
    """Another variant of the same file may have its safetensors already: the smallest model's are 270 MB."""
    others = (
        home.model_folder(name)
        for name, other in catalog.variants.items()
        if other.source == source and other.engine != "remote"
    )
    return next((ready for ready in others if ready != folder and made_of(ready, source)), None)


def _fill(gguf: Path, ready: Path | None, staged: Path) -> None:
    if ready is None:
        dequantize(gguf, staged)
        return
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(ready, staged, ignore=shutil.ignore_patterns(".made-of"))
