"""`groupqwen adapters list|show|diff|rm|export`: what was trained, and in which forms it is there.

Promoting and demoting are in a file of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from configs.adapters import AdapterManifest, Promotion, read_adapter, read_adapters
from configs.catalog import load_catalog
from configs.home import home
from configs.training import Form, Recipe, load_recipes, read_spec
from groupqwen.stack.problem import StartProblem
from groupqwen.training import adapters
from train.publish import registry
from train.publish.differences import differences
from train.publish.errors import ExportError, RegistryError

if TYPE_CHECKING:
    from train.publish.exporting import Base

console = Console()

NameArgument = Annotated[
    str, typer.Argument(help="From `groupqwen adapters list`; an older version: NAME@VERSION.")
]
REPORT = "report.html"
_SHOWN_METRICS = 3


@contextmanager
def _told() -> Iterator[None]:
    """What is refused is one line, and no traceback."""
    try:
        yield
    except (RegistryError, ExportError, OSError) as error:
        raise StartProblem(str(error)) from error


@adapters.command("list")
def list_adapters(
    everything: Annotated[bool, typer.Option("--all", help="Older versions too.")] = False,
) -> None:
    """The adapters: what each was made of, how good it is, whether it serves."""
    found = list(read_adapters(home().adapters))
    older = registry.archived(home().adapters) if everything else []
    if not found and not older:
        console.print("There are no adapters yet: `groupqwen train` makes them.")
        return
    table = Table(
        Column("adapter", no_wrap=True),
        "base",
        "made",
        "data",
        "recipe",
        "metrics",
        "gate",
        Column("size", justify="right"),
        "serves",
    )
    for manifest, name in [(one, one.name) for one in found] + [(one, one.version) for one in older]:
        table.add_row(
            name,
            manifest.base,
            _day(manifest.created),
            manifest.data_hash[:8],
            _recipe(manifest.recipe),
            _metrics(manifest),
            _gate(manifest),
            _size(sum(one.bytes for one in manifest.exports.values())),
            _serves(manifest.promotion),
        )
    console.print(table)


@adapters.command()
def show(name: NameArgument) -> None:
    """All that is known of one: its metrics, its forms and what each answered, its older versions."""
    with _told():
        folder = registry.find(home().adapters, name)
        manifest = read_adapter(folder)
    facts = Table(show_header=False, box=None, padding=(0, 2))
    for key, said in (
        ("adapter", manifest.version),
        ("model", manifest.model),
        ("made", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created))),
        ("job", manifest.job or "-"),
        ("data", manifest.data_hash),
        ("recipe", _whole_recipe(manifest.recipe)),
        ("seed", str(manifest.seed)),
        ("goes on from", ", ".join(manifest.parents) or "its base"),
        ("gate", _gate(manifest)),
        ("serves", _serves(manifest.promotion) or "no"),
        ("report", str(folder / REPORT) if (folder / REPORT).is_file() else "-"),
    ):
        facts.add_row(key, escape(said))
    for reason in manifest.gate.reasons if manifest.gate else []:
        facts.add_row("", escape(reason))
    for metric, value in manifest.metrics.items():
        facts.add_row(metric, f"{value:.6g}")
    console.print(facts)
    forms = Table("form", "file", Column("size", justify="right"), "asked", "answered")
    for form, export in manifest.exports.items():
        answer = "(not tried)" if export.answer is None else export.answer
        forms.add_row(form, export.path, _size(export.bytes), escape(export.question), escape(answer))
    console.print(forms)
    versions = [
        one for one in registry.archived(home().adapters, manifest.name) if one.created != manifest.created
    ]
    if versions:
        console.print("Other versions: " + ", ".join(one.version for one in versions))


@adapters.command()
def diff(left: NameArgument, right: NameArgument) -> None:
    """What two differ in: data, recipe, metrics, gate, forms."""
    with _told():
        one, other = (read_adapter(registry.find(home().adapters, name)) for name in (left, right))
    table = Table("", left, right)
    for difference in differences(one, other):
        table.add_row(difference.field, escape(difference.left), escape(difference.right))
    console.print(table if table.row_count else "They differ in nothing but their names.")


@adapters.command()
def rm(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove one, for good. One that serves is refused."""
    with _told():
        manifest = read_adapter(registry.find(home().adapters, name))
        size = _size(sum(one.bytes for one in manifest.exports.values()))
        if not yes:
            typer.confirm(f"Remove {manifest.version} ({size}) for good?", abort=True)
        registry.remove(home().adapters, name)
    console.print(f"Removed {manifest.version}.")


@adapters.command()
def export(
    name: NameArgument,
    form: Annotated[
        Form,
        typer.Option(help="Base and adapter as one: `merged` (safetensors), `merged-gguf`, or few bits for vLLM."),
    ],
    quantization: Annotated[
        str | None, typer.Option(help="Of merged-gguf: F16, Q8_0, Q4_K_M, …; unset: Q8_0.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The base as it was trained on; unset: where its job says.")
    ] = None,
    gguf: Annotated[Path | None, typer.Option(help="The base's GGUF file; unset: where its job says.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="To compute with.")] = 1,
) -> None:
    """Make a further form of an adapter. It is listed once it was loaded and has answered as the adapter does."""
    from train.publish.exporting import QUANTIZATION, export_form, key_of
    from train.publish.gguf_model import QUANTIZATIONS

    chosen = (quantization or QUANTIZATION).upper()
    if quantization and form != "merged-gguf":
        raise typer.BadParameter("only `merged-gguf` has one", param_hint="--quantization")
    if chosen not in QUANTIZATIONS:
        raise typer.BadParameter(f"none of {', '.join(QUANTIZATIONS)}", param_hint="--quantization")
    with _told(), console.status(f"{name}: looking") as status:

        def say(_kind: str, **data: Any) -> None:
            status.update(f"{name}: {data['message']} …")

        manifest = read_adapter(registry.find(home().adapters, name))
        base = _base_of(manifest)
        base = replace(base, weights=weights or base.weights, gguf=gguf or base.gguf, threads=threads)
        if form in ("awq", "gptq"):
            base = replace(base, dataset=_trained_on(manifest))
        if form in ("awq", "gptq", "fp8"):
            base = replace(base, tools=_tools(say))
        made = registry.add_export(
            home().adapters,
            name,
            key_of(form, chosen),
            lambda folder, into: export_form(base, folder, manifest, form, say, chosen, into),
        )
    path = registry.find(home().adapters, name) / made.path
    console.print(f"{path}  {_size(made.bytes)}  sha256 {made.sha256}")
    console.print(f"Asked {made.question!r}, it answered {made.answer!r}.", markup=False)


def _base_of(manifest: AdapterManifest) -> Base:
    """What its job was told; of a job that is gone, what the catalog says of its base."""
    from train.publish.exporting import Base

    here = home()
    if manifest.job is not None:
        try:
            spec = read_spec(here.training / "jobs" / manifest.job)
        except (OSError, ValueError):
            pass
        else:
            return Base(manifest.name, spec.weights, spec.base_gguf, spec.dataset)
    variants = load_catalog().variants
    if manifest.base not in variants:
        raise StartProblem(f"{manifest.base} is not in the catalog: say --weights, and --gguf for llama.cpp")
    file = here.model_file(manifest.base, variants[manifest.base].source)
    gguf = file if file.suffix == ".gguf" and file.is_file() else None
    return Base(manifest.name, here.model_folder(manifest.base), gguf, here.training)


def _trained_on(manifest: AdapterManifest) -> Path:
    """The dataset as its job learned from it: by other data, other weights would count as those that matter."""
    from train.data_hash import data_hash
    from train.format.pinning import PINNED

    places = []
    if manifest.job is not None:
        job = home().training / "jobs" / manifest.job
        places.append(job / PINNED)
        with suppress(OSError, ValueError):
            places.append(read_spec(job).dataset)
    for place in dict.fromkeys(places):
        if (place / "train.jsonl").is_file() and data_hash(place) == manifest.data_hash:
            return place
    raise StartProblem(
        f"awq and gptq are calibrated by what {manifest.name} was trained on (data {manifest.data_hash[:8]}), "
        f"which is not there any more; looked for in: {', '.join(map(str, dict.fromkeys(places))) or 'nothing'}"
    )


def _tools(say: Any) -> Path:
    from train.publish import quantizing

    tools = home().root / "quantizer"
    if not quantizing.is_installed(tools):
        say("log", message="fetching llm-compressor, once")
        quantizing.install(tools)
    return tools


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _recipe(recipe: Recipe) -> str:
    """Its name, where configs/recipes.yaml has it; else its main numbers."""
    for name, known in load_recipes().items():
        if known == recipe.model_copy(update={"note": known.note}):
            return name
    return f"{recipe.method} r{recipe.rank} {recipe.learning_rate:g}"


def _whole_recipe(recipe: Recipe) -> str:
    told = ", ".join(f"{key} {value}" for key, value in recipe.model_dump(exclude_defaults=True).items())
    return f"{_recipe(recipe)} ({told or 'the defaults'})"


def _metrics(manifest: AdapterManifest) -> str:
    first = list(manifest.metrics.items())[:_SHOWN_METRICS]
    return ", ".join(f"{name} {value:.4g}" for name, value in first)


def _gate(manifest: AdapterManifest) -> str:
    if manifest.gate is None:
        return "not evaluated"
    return "passed" if manifest.gate.passed else "refused"


def _serves(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    extras = [
        f"{share:.0%} {what}"
        for what, share in (("share", promotion.share), ("shadow", promotion.shadow))
        if share
    ]
    return ", ".join(["yes", *extras, *(["forced"] if promotion.forced else [])])
