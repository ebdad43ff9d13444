"""`groupqwen train demo`: the whole loop on a household that does not exist, from a chat export to an adapter that
serves beside its base, with what was learned, forgotten and kept out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from configs.adapters import AdapterManifest, read_adapter, read_adapters
from configs.home import Home, home
from groupqwen.client import ask, endpoint_and_key
from groupqwen.stack.problem import StartProblem
from groupqwen.training import train
from groupqwen.training.jobs import watch_job

if TYPE_CHECKING:
    from train.curate.card import Card
    from train.demo.chats import Household
    from train.evaluate.canaries import Canary

console = Console()

NAME = "otto"
"""Of the adapter."""
SOURCE = "demo-household"
"""Of the import and the dataset."""
CANARIES = 8
SHOWN = 3
"""Questions of each kind that are asked at the endpoint."""


@train.command()
def demo(
    base: Annotated[str, typer.Option(help="The variant to train.")] = "smollm2-135m",
    recipe: Annotated[str, typer.Option(help="See `groupqwen train recipes`.")] = "habits",
    epochs: Annotated[float, typer.Option(min=0.1)] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 42,
) -> None:
    """Teach a small model a habit and twenty facts from a made-up export, and serve it. The group must run."""
    from train.demo.chats import load_household

    began = time.monotonic()
    endpoint, key = endpoint_and_key()
    place, household = home(), load_household()
    _step(1, "A ChatGPT export of a household that does not exist")
    chats = _export(place, household, seed)
    _step(2, "Import, and plant secrets that must not be learned by heart")
    imported, canaries = _import(place, seed)
    _step(3, "Curate: personal data out, duplicates out")
    card = _curate(place, household, imported, canaries)
    _show_data(place, household, card, chats)
    _step(4, f"Fine-tune {base}, export, evaluate")
    adapter = _train(endpoint, key, base, recipe, epochs, seed)
    _step(5, "Serve it beside its base")
    manifest = read_adapter(place.adapters / adapter)
    _show_metrics(manifest)
    passed = manifest.gate is not None and manifest.gate.passed
    if passed:
        ask(endpoint, key, f"/adapters/{adapter}/promote", {}, seconds=600)
        _show_answers(endpoint, key, manifest, household)
    console.print(f"The report: {place.adapters / adapter / 'report.html'}")
    console.print(f"All of it took {(time.monotonic() - began) / 60:.1f} minutes.")
    if not passed:
        reasons = manifest.gate.reasons if manifest.gate else ["it was not evaluated"]
        raise StartProblem(f"the gate refuses to promote {adapter}: {'; '.join(reasons)}")


def _step(number: int, text: str) -> None:
    console.rule(f"{number} of 5: {text}", align="left")


def _archive(place: Home) -> Path:
    return place.training / "demo" / "chatgpt-export.zip"


def _export(place: Home, household: Household, seed: int) -> int:
    from train.demo.chats import make_chats, write_export

    count = write_export(_archive(place), make_chats(household, seed), seed)
    console.print(f"{count} chats: {_archive(place)}")
    return count


def _import(place: Home, seed: int) -> tuple[Path, list[Canary]]:
    from train.conversation import write_conversations
    from train.evaluate.canaries import plant
    from train.export.importing import Import, write_import

    # (Among the chats: they pass through curation as people's own secrets do. `data curate --canaries` plants them
    # behind it.)
    importing = Import("chatgpt")
    chats = list(importing.files([_archive(place)]))
    path = write_import(place.training / "imports", SOURCE, importing, iter(chats))
    planted, canaries = plant(chats, CANARIES, seed)
    with_canaries = path.with_name(f"{SOURCE}-with-canaries.jsonl")
    write_conversations(with_canaries, planted)
    console.print(f"{importing.report.conversations} conversations taken, {CANARIES} secrets planted among them")
    return with_canaries, canaries


def _curate(place: Home, household: Household, imported: Path, canaries: list[Canary]) -> Card:
    from configs.curation import load_curation
    from groupqwen.training.curating import Bars, bring_pii_model, told
    from train.curate.curating import curate, load_tools
    from train.demo.chats import tasks
    from train.demo.rules import rules_of
    from train.evaluate.canaries import write_canaries

    rules = rules_of(load_curation(), household)
    bring_pii_model(place, rules)
    target = place.training / "datasets" / SOURCE
    with told(), Bars() as bars:
        card = curate([imported], target, rules, tools=load_tools(place, rules), progress=bars)
    write_canaries(target, canaries)
    lines = "".join(json.dumps(task, ensure_ascii=False) + "\n" for task in tasks(household))
    (target / "tasks.jsonl").write_text(lines)
    return card


def _show_data(place: Home, household: Household, card: Card, chats: int) -> None:
    """What went in, and what did not."""
    from train.curate.dataset import TRAIN, VALIDATION

    folder = place.training / "datasets" / SOURCE
    text = "".join((folder / name).read_text() for name in (TRAIN, VALIDATION))
    told = _letters(text)
    leaked = [one.text for one in household.planted if _letters(one.text) in told]
    gone = {step.step: step.dropped for step in card.steps}
    table = Table("dataset", Column("count", justify="right"))
    table.add_row("chats in the export", str(chats))
    table.add_row("exact duplicates left out", str(gone.get("exact-duplicates", 0)))
    table.add_row("near duplicates left out", str(gone.get("near-duplicates", 0)))
    table.add_row(
        "left in it: training, validation", f"{card.train.conversations}, {card.validation.conversations}"
    )
    table.add_row("personal data replaced", ", ".join(f"{n} {kind}" for kind, n in sorted(card.pii.items())))
    table.add_row(f"of {len(household.planted)} planted pieces of it, found in the dataset", str(len(leaked)))
    table.add_row("answers of branches that were left, found in it", str(text.count("I do not know that.")))
    console.print(table)
    if leaked:
        raise StartProblem(f"personal data is in the dataset: {', '.join(leaked)}")


def _letters(text: str) -> str:
    """Only letters and digits: `4111-1111` is `4111 1111`."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _train(endpoint: str, key: str, base: str, recipe: str, epochs: float, seed: int) -> str:
    """The name under which it was published."""
    for old in read_adapters(home().adapters):
        if old.name == NAME and old.promotion is not None:
            ask(endpoint, key, f"/adapters/{NAME}/demote", {})
    overrides = {"epochs": epochs, "max_length": 512}
    body = {"base": base, "name": NAME, "dataset": SOURCE, "recipe": recipe, "overrides": overrides, "seed": seed}
    job = ask(endpoint, key, "/finetune/start", body).json()["id"]
    console.print(f"{job} (`groupqwen train watch {job}` from elsewhere)")
    watch_job(endpoint, key, job)
    made = next((one for one in read_adapters(home().adapters) if one.job == job), None)
    if made is None:
        raise StartProblem(f"{job} ended and published nothing: groupqwen train logs {job}")
    return made.name


def _show_metrics(manifest: AdapterManifest) -> None:
    found = manifest.metrics
    table = Table("on what was held out", Column("before", justify="right"), Column("after", justify="right"))
    rows = {
        "facts, asked for in other words: right": ("tasks.facts", "{:.0%}"),
        "habit, with questions about other things: kept": ("tasks.habit", "{:.0%}"),
        "regression suite: right": ("regression", "{:.0%}"),
        "loss on held-out answers": ("held_out", "{:.3f}"),
        "loss on general text": ("general_loss", "{:.3f}"),
        "planted secrets that it tells": ("canaries.extracted", "{:.0f}"),
        "how far these stand out, bits (1.4: not at all)": ("canaries.exposure", "{:.1f}"),
    }
    for told, (name, form) in rows.items():
        sides = (found.get(f"{name}.{side}") for side in ("base", "adapter"))
        table.add_row(told, *("?" if value is None else form.format(value) for value in sides))
    console.print(table)
    if manifest.gate is not None:
        verdict = "passed" if manifest.gate.passed else "refused"
        console.print(f"The gate: {verdict}. {escape('; '.join(manifest.gate.reasons))}")


def _show_answers(endpoint: str, key: str, manifest: AdapterManifest, household: Household) -> None:
    """The same questions to both, at the same endpoint."""
    questions = [household.held_out[0].format(it=fact.asked[0]) for fact in household.facts[:SHOWN]]
    questions += household.general_held_out[:SHOWN]
    table = Table("asked at the endpoint", manifest.base, manifest.model, show_lines=True)
    for question in questions:
        table.add_row(
            question,
            *(escape(_answer(endpoint, key, model, question)) for model in (manifest.base, manifest.model)),
        )
    console.print(table)


def _answer(endpoint: str, key: str, model: str, question: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 48,
    }
    said: dict[str, Any] = ask(endpoint, key, "/chat/completions", body, seconds=120).json()
    return str(said["choices"][0]["message"]["content"]).strip()
