"""The weights that a profile needs: which files, where, and fetching them with a progress bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from configs.catalog import Catalog, Source
from configs.home import Home
from configs.profile import Profile
from groupqwen.downloads import fetch, is_ready


@dataclass(frozen=True)
class WantedFile:
    """One file of one model."""

    name: str
    source: Source
    target: Path


def wanted(profile: Profile, catalog: Catalog, home: Home) -> list[WantedFile]:
    """Every file that the profile needs, each once."""
    spec = catalog.embedders[profile.embedder]
    sources = [(name, catalog.variant(name).source) for name in profile.variants]
    sources += [(profile.embedder, source) for source in (spec.weights, spec.tokenizer, spec.config)]
    return [WantedFile(name, source, home.model_file(name, source)) for name, source in sources]


def pull(files: list[WantedFile], console: Console) -> None:
    """Fetch what is missing. Raises `DownloadError` at the first that cannot be had."""
    missing = [file for file in files if not is_ready(file.source, file.target)]
    if not missing:
        return
    columns = [TextColumn("{task.description:<24}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=console) as bars:
        for file in missing:
            task = bars.add_task(f"{file.name} {file.target.suffix}", total=file.source.bytes)
            fetch(file.source, file.target, lambda got, task=task: bars.update(task, completed=got))  # type: ignore[misc]
            bars.update(task, completed=file.target.stat().st_size, total=file.target.stat().st_size)


def prepare_embedder(profile: Profile, catalog: Catalog, home: Home) -> Path:
    """Export the embedder to ONNX, once."""
    spec = catalog.embedders[profile.embedder]
    target = home.embedder_file(profile.embedder)
    if not target.is_file():
        from deployments.embedding.export import export

        export(
            home.model_file(profile.embedder, spec.weights),
            home.model_file(profile.embedder, spec.config),
            target,
        )
    return target
