"""The weights that a profile needs: which files, where, and fetching them with a progress bar."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from configs.catalog import Catalog, Source
from configs.home import Home
from configs.profile import Profile
from groupqwen.downloads import DownloadError, fetch, fetch_repository, is_ready, link, make_folder


@dataclass(frozen=True)
class WantedFile:
    """One file of one model."""

    name: str
    source: Source
    target: Path


@dataclass(frozen=True)
class WantedFolder:
    """A model in the form that vLLM reads: a repository of a hub, or made from a GGUF file (`made_from`)."""

    name: str
    source: Source
    target: Path
    made_from: Path | None


def wanted_folders(profile: Profile, catalog: Catalog, home: Home) -> list[WantedFolder]:
    """The folders that the profile's variants on vLLM need."""
    specs = [(name, spec) for name in profile.variants if (spec := catalog.variant(name)).engine == "vllm"]
    return [
        WantedFolder(
            name,
            spec.source,
            home.model_folder(name),
            home.model_file(name, spec.source) if spec.dequantize else None,
        )
        for name, spec in specs
    ]


def wanted(profile: Profile, catalog: Catalog, home: Home) -> list[WantedFile]:
    """Every file that the profile needs, each once."""
    spec = catalog.embedders[profile.embedder]
    specs = [(name, catalog.variant(name)) for name in profile.variants]
    sources = [(name, spec.source) for name, spec in specs if spec.engine == "llama.cpp" or spec.dequantize]
    sources += [(profile.embedder, source) for source in (spec.weights, spec.tokenizer, spec.config)]
    return [WantedFile(name, source, home.model_file(name, source)) for name, source in sources]


def fetch_profile(profile: Profile, catalog: Catalog, home: Home, console: Console) -> None:
    """Everything that the profile's models are made of. Raises `DownloadError`."""
    pull(wanted(profile, catalog, home), console)
    for folder in wanted_folders(profile, catalog, home):
        with console.status(f"{folder.name}: preparing its weights for vLLM …"):
            make_folder(folder.source, folder.target, partial(_fill, folder))
    with console.status("Preparing the embedder …"):
        prepare_embedder(profile, catalog, home)


def _fill(wanted: WantedFolder, folder: Path) -> None:
    if wanted.made_from is None:
        fetch_repository(wanted.source, folder)
    else:
        dequantize(wanted.made_from, folder)


def dequantize(source: Path, folder: Path) -> None:
    """Fill a folder with the safetensors of a GGUF file. Raises `DownloadError`."""
    command = [sys.executable, "-m", "groupqwen.dequantize", str(source), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DownloadError(f"{source.name} could not be made into safetensors: {why}")


def pull(files: list[WantedFile], console: Console) -> None:
    """Fetch what is missing. Raises `DownloadError` at the first that cannot be had."""
    take_over(files)
    missing = [file for file in files if not is_ready(file.source, file.target)]
    if not missing:
        return
    columns = [TextColumn("{task.description:<24}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=console) as bars:
        for file in missing:
            task = bars.add_task(f"{file.name} {file.target.suffix}", total=file.source.bytes)
            fetch(file.source, file.target, lambda got, task=task: bars.update(task, completed=got))  # type: ignore[misc]
            bars.update(task, completed=file.target.stat().st_size, total=file.target.stat().st_size)


def take_over(files: list[WantedFile]) -> None:
    """Variants of the same weights share one file on disk: what another has fetched is not fetched again."""
    for file in files:
        folder = file.target.parent.parent
        if file.source.sha256 is None or is_ready(file.source, file.target):
            continue
        for note in folder.glob("*/.*.verified"):
            other = note.parent / note.name.removeprefix(".").removesuffix(".verified")
            if is_ready(file.source, other):
                link(other, file.source, file.target)
                break


def prepare_embedder(profile: Profile, catalog: Catalog, home: Home) -> Path:
    """Export the embedder to ONNX, once. Raises `DownloadError`."""
    spec = catalog.embedders[profile.embedder]
    target = home.embedder_file(profile.embedder)
    if target.is_file():
        return target
    from deployments.embedding.export import export
    from deployments.embedding.weights import ExportError

    weights, config = (home.model_file(profile.embedder, source) for source in (spec.weights, spec.config))
    # (Homes may share their models, and start at the same time.)
    with FileLock(f"{target}.lock"):
        if not target.is_file():
            try:
                export(weights, config, target)
            except ExportError as error:
                raise DownloadError(f"no embedder can be made of {profile.embedder}: {error}") from error
    return target
