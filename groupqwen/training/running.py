"""`groupqwen train here`: a job in the foreground, without the group; `groupqwen train recipes`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.adapters import read_adapter
from configs.home import Home, home
from configs.training import CLEARED, RUNS_ALREADY, STOPPED, JobSpec, Recipe, load_recipes, read_spec, write_spec
from groupqwen.training import train
from groupqwen.training.display import Display

console = Console()
ROOT = Path(__file__).parents[2]
DEATHS = 4
"""Of a job's process, one after the other, after which it is left as it is."""


@train.command()
def here(
    dataset: Annotated[
        str, typer.Argument(help="A dataset's folder or name, or a JSONL file.", show_default=False)
    ] = "",
    base: Annotated[str, typer.Option(help="The variant to train.")] = "",
    name: Annotated[str, typer.Option(help="Of the adapter: it will be asked as `ft:BASE:NAME`.")] = "",
    recipe: Annotated[str, typer.Option(help="See `groupqwen train recipes`.")] = "reference",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Another value of the recipe: `epochs=1`; several times.")
    ] = None,
    backend: Annotated[str, typer.Option(help="`auto`, `unsloth` or `peft`.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share each batch.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Of each worker; 0: all cores that there are for it.")] = 0,
    gpu: Annotated[bool | None, typer.Option(help="Unset: if there is one.")] = None,
    seed: Annotated[int, typer.Option()] = 42,
    parent: Annotated[str, typer.Option(help="An adapter to go on from.")] = "",
    evaluate: Annotated[bool, typer.Option(help="Also the checks that decide on promotion.")] = True,
    resume: Annotated[str, typer.Option(help="Go on with this job; all else is as it was.")] = "",
) -> None:
    """Train an adapter now, on this machine, and watch it. Ctrl-C leaves a checkpoint from which it goes on."""
    where = home()
    if resume:
        folder = job_folder(where, resume)
        (folder / "cancel").unlink(missing_ok=True)
    else:
        missing = [told for told, given in (("DATASET", dataset), ("--base", base), ("--name", name)) if not given]
        if missing:
            raise typer.BadParameter(f"{' and '.join(missing)} must be given, or --resume ID")
        chosen = changed(recipe, changes or [])
        on_gpu = has_gpu() if gpu is None else gpu
        spec = {
            "name": name,
            "base": base,
            "recipe": chosen,
            "backend": backend,
            "workers": workers,
            "threads": threads or max(1, (os.cpu_count() or 1) // workers),
            "gpu": on_gpu,
            "seed": seed,
            "parents": [parent_version(where, parent)] if parent else [],
            "evaluate": evaluate,
        }
        folder = new_job(where, dataset, spec)
    raise typer.Exit(watch(folder))


@train.command()
def recipes() -> None:
    """The recipes of configs/recipes.yaml."""
    table = Table("recipe", "method", "rank / alpha", "matrices", "base", "batch", "rate", "epochs", "what for")
    for name, recipe in load_recipes().items():
        targets = ", ".join(target.removesuffix("_proj") for target in recipe.targets)
        table.add_row(
            name,
            recipe.method,
            f"{recipe.rank} / {recipe.alpha}",
            targets,
            "NF4" if recipe.quantize == "nf4" else "whole",
            f"{recipe.batch} × {recipe.accumulation}",
            f"{recipe.learning_rate:g}",
            f"{recipe.epochs:g}",
            recipe.note,
        )
    console.print(table)


def changed(name: str, changes: list[str]) -> Recipe:
    """A recipe with some values changed, `key=value` each. Raises `typer.BadParameter`."""
    known = load_recipes()
    if name not in known:
        raise typer.BadParameter(f"{name}: there are {', '.join(known)}", param_hint="--recipe")
    values = known[name].model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in values:
            raise typer.BadParameter(f"{change!r}: say one of {', '.join(values)}, `=`, value", param_hint="--set")
        values[key] = yaml.safe_load(value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise typer.BadParameter(_first(error), param_hint="--set") from error


def new_job(where: Home, dataset: str, spec: dict[str, Any]) -> Path:
    """The folder of a new job. Raises `typer.BadParameter`, `ConfigError`, `DownloadError`."""
    from configs.catalog import load_catalog
    from groupqwen.training.weights import base_weights

    data = dataset_folder(where, dataset)
    catalog = load_catalog()
    with console.status(f"{spec['base']}: preparing its weights for training …"):
        weights, gguf = base_weights(where, catalog, spec["base"])
    job = f"ftjob-{secrets.token_hex(12)}"
    folder = where.training / "jobs" / job
    paths = {
        "weights": weights,
        "base_gguf": gguf,
        "dataset": data or folder / "dataset",
        "adapters": where.adapters,
    }
    try:
        made = JobSpec.model_validate({"id": job, **paths, **spec})
    except ValidationError as error:
        raise typer.BadParameter(_first(error)) from error
    write_spec(folder, made)
    if data is None:
        made.dataset.mkdir(mode=0o700)
        shutil.copyfile(dataset, made.dataset / "train.jsonl")
    return folder


def dataset_folder(where: Home, given: str) -> Path | None:
    """The folder that is meant; None: a file, which the job will have a copy of. Raises `typer.BadParameter`."""
    path = Path(given).expanduser().absolute()
    if path.is_file():
        return None
    for folder in (path, where.training / "datasets" / given):
        if (folder / "train.jsonl").is_file():
            return folder
    raise typer.BadParameter(
        f"{given}: no JSONL file, no folder with train.jsonl, and no dataset of `groupqwen data curate`",
        param_hint="DATASET",
    )


def parent_version(where: Home, parent: str) -> str:
    """Which version of an adapter is meant now, if another has its name tomorrow. Raises `typer.BadParameter`."""
    from train.publish.errors import RegistryError
    from train.publish.registry import find

    try:
        return read_adapter(find(where.adapters, parent)).version
    except (RegistryError, OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--parent") from error


def job_folder(where: Home, job: str) -> Path:
    """Of a job that there is. Raises `typer.BadParameter`."""
    folder = where.training / "jobs" / job
    try:
        read_spec(folder)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{job}: {error}", param_hint="--resume") from error
    if (folder / CLEARED).exists():
        raise typer.BadParameter(
            f"{job} ended long ago and its checkpoints were removed: start a new one", param_hint="--resume"
        )
    return folder


def watch(folder: Path) -> int:
    """Run a job in a process of its own, and show it; returns its exit status.

    One that dies without a word, as when its Ray is killed, is followed by another.
    """
    spec = read_spec(folder)
    console.print(f"Job {spec.id}: {spec.base} → ft:{spec.base}:{spec.name}")
    for _ in range(DEATHS):
        status, display, told_to_stop = _run_once(folder)
        if display.state != "running" or told_to_stop or status == RUNS_ALREADY:
            break
        console.print(f"[yellow]Its process died ({status}): going on from the last checkpoint.[/yellow]")
    if status == RUNS_ALREADY:
        console.print("[red]Another process runs this job.[/red]")
    elif status == STOPPED:
        console.print(f"Stopped. Go on: groupqwen train here --resume {spec.id}")
    elif status == 0:
        console.print(f"Done: {spec.adapters / spec.name}. See `groupqwen adapters show {spec.name}`.")
    else:
        console.print(f"[red]Failed: {escape(display.error or 'its process ended')}[/red]", highlight=False)
        console.print(f"What it said: {folder / 'run.log'}. Go on: groupqwen train here --resume {spec.id}")
    return status if status >= 0 else 1


def _run_once(folder: Path) -> tuple[int, Display, bool]:
    """(exit status, what it showed, whether it was told to stop)."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    told_to_stop = False
    with Display(folder, console) as display:
        with (folder / "run.log").open("ab") as log:
            # (In a session of its own: Ctrl-C is for us, who tell it in a way that leaves a checkpoint.)
            process = subprocess.Popen(
                [sys.executable, "-m", "train.run", str(folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        while True:
            try:
                while process.poll() is None:
                    display.update()
                    time.sleep(0.2)
                break
            except KeyboardInterrupt:
                console.print("Stopping at the next step, with a checkpoint …")
                told_to_stop = True
                process.send_signal(signal.SIGTERM)
        display.update()
    return process.returncode, display, told_to_stop


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    from configs.machine import gpu_memory_mb

    return bool(gpu_memory_mb())


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
