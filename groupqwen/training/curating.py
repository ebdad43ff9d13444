"""`groupqwen data curate` and `groupqwen data show`: chats become a dataset, and what is in one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from configs.home import Home, home
from groupqwen.training import data

if TYPE_CHECKING:
    from configs.curation import CurationRules
    from train.curate.card import Card

console = Console()
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


@data.command()
def curate(
    sources: Annotated[list[str], typer.Argument(help="Imports by name, or JSONL files of conversations.")],
    name: Annotated[str, typer.Option("--name", help="Of the dataset that is made.")],
    auto: Annotated[
        bool,
        typer.Option("--auto/--review", help="Without looking; or look at every conversation in the terminal."),
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="Rules of your own, in place of configs/curation.yaml.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="For both models.")] = 2,
    canaries: Annotated[
        int,
        typer.Option(
            min=0,
            max=48,
            help="Plant so many made-up secrets in train.jsonl: the evaluation tells whether what is trained "
            "on it repeats them.",
        ),
    ] = 0,
    canary_seed: Annotated[int, typer.Option(min=0, help="Another one: other secrets, elsewhere.")] = 42,
) -> None:
    """Filter chats, replace personal information, leave out duplicates, and write a dataset with its card.

    Every decision is kept: a review that was stopped goes on with the same command, and the same chats and
    decisions give the same dataset, byte for byte.
    """
    import sys

    from configs.curation import DEFAULTS, load_curation
    from train.curate.curating import curate as run
    from train.curate.curating import load_tools
    from train.curate.review import review

    if not auto and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("a review needs a terminal; say --auto", param_hint="--review")
    place = home()
    target = dataset(place, name)
    rules = load_curation(config or DEFAULTS)
    paths = [found(place, each) for each in sources]
    bring_pii_model(place, rules)
    with told(), Bars() as bars:
        card = run(
            paths,
            target,
            rules,
            tools=load_tools(place, rules, threads),
            decisions=place.training / "reviews" / f"{name}.jsonl",
            review=None if auto else review,
            progress=bars,
            canaries=canaries,
            canary_seed=canary_seed,
        )
    show_card(card, bars.seconds)
    console.print(f"Written: {target}")


@data.command()
def show(
    name: Annotated[str, typer.Argument(help="A dataset, by name.")],
    sample: Annotated[int, typer.Option(min=0, max=100, help="Conversations that are shown.")] = 2,
) -> None:
    """What is in a dataset: its card, and some of its conversations."""
    from train.conversation import read_conversations
    from train.curate.card import read_card
    from train.curate.dataset import TRAIN

    folder = dataset(home(), name)
    with told():
        if not (folder / "card.json").is_file():
            raise typer.BadParameter(f"there is no dataset {name!r}", param_hint="NAME")
        show_card(read_card(folder), {})
        for number, each in enumerate(read_conversations(folder / TRAIN)):
            if number == sample:
                break
            console.rule(escape(each.title or each.id))
            for message in each.messages:
                console.print(f"[bold]{message.role}[/bold]: {escape(message.content[:600])}")


def dataset(place: Home, name: str) -> Path:
    """Where it lies."""
    import re

    if not re.match(NAME, name):
        raise typer.BadParameter("lower-case letters, digits, dots and dashes", param_hint="--name")
    return place.training / "datasets" / name


def found(place: Home, source: str) -> Path:
    """A file, or an import by its name."""
    imports = place.training / "imports"
    for path in (Path(source), imports / f"{source}.jsonl", imports / source / "conversations.jsonl"):
        if path.is_file():
            return path
    known = sorted(path.relative_to(imports).parts[0].removesuffix(".jsonl") for path in imports.rglob("*.jsonl"))
    raise typer.BadParameter(
        f"{source!r} is neither a file nor an import; there are: {', '.join(dict.fromkeys(known)) or 'none'}",
        param_hint="SOURCES",
    )


def bring_pii_model(place: Home, rules: CurationRules) -> None:
    """Fetch the model that knows names, once. Where that fails it is told, and rules do it alone."""
    from groupqwen.downloads import DownloadError
    from groupqwen.models import WantedFile, pull

    if not any(each.step == "pii" and each.names == "model" for each in rules.steps):
        return
    spec = rules.pii_model
    files = zip((spec.model, spec.tokenizer), spec.files(place), strict=True)
    try:
        pull([WantedFile(spec.name, source, target) for source, target in files], console)
    except DownloadError as error:
        console.print(f"[yellow]{escape(str(error))}[/yellow]")


@contextmanager
def told() -> Iterator[None]:
    """What is wrong with data is one line, with what to do."""
    from train.conversation import DataError

    try:
        yield
    except (DataError, OSError) as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(1) from None


class Bars:
    """Progress of each step; what must be heard is printed at once."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._step = ""
        self._started = 0.0
        self._messages = 0
        self.seconds: dict[str, tuple[float, int]] = {}
        """Of each step, with the messages that came to it."""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, step: str, conversations: int, messages: int) -> None:
        self._step, self._messages, self._started = step, messages, time.monotonic()
        self._bars.start()
        self._task = self._bars.add_task(step, total=conversations or None)

    def advance(self, conversations: int) -> None:
        self._bars.advance(self._task, conversations)

    def end(self) -> None:
        self.seconds[self._step] = (time.monotonic() - self._started, self._messages)
        # (The review takes the terminal; a bar that still turns would draw over it.)
        self._bars.remove_task(self._task)
        self._bars.stop()

    def note(self, message: str) -> None:
        console.print(f"[yellow]{escape(message)}[/yellow]")


def show_card(card: Card, seconds: dict[str, tuple[float, int]]) -> None:
    """The card as tables. `seconds`: of each step, and how many messages it saw."""
    numbers = [Column(each, justify="right") for each in ("seen", "left out", "changed")]
    speed = [Column("messages/s", justify="right")] if seconds else []
    table = Table("step", *numbers, *speed, "why", title=escape(card.name), title_justify="left")
    for each in card.steps:
        why = each.left_out and f"not taken: {each.left_out}"
        took, messages = seconds.get(each.step, (0.0, 0))
        rate = [f"{messages / took:,.0f}" if took else "-"] if seconds else []
        reasons = why or ", ".join(f"{reason}: {count}" for reason, count in each.reasons.items())
        table.add_row(each.step, str(each.seen), str(each.dropped), str(each.changed), *rate, escape(reasons))
    console.print(table)
    parts = Table("part", *(Column(each, justify="right") for each in PART))
    for name, part in (("train", card.train), ("validation", card.validation)):
        parts.add_row(name, *(f"{getattr(part, field):,}" for field in PART))
    console.print(parts)
    owner = card.owner
    lines = [
        f"Kept {card.kept} of {card.read} conversations. Owner: {owner.accepted} accepted, {owner.rejected} "
        f"rejected, {owner.edited} edited, {owner.tagged} tagged"
        + (f", {owner.stale} stale" if owner.stale else ""),
        f"Replaced: {counted(card.pii) or 'nothing'}",
        f"On both sides of the split: {card.leakage.found} (looked for: {', '.join(card.leakage.checks)})",
        *([f"Planted: {card.planted} canaries, in train.jsonl"] if card.planted else []),
        f"Data hash: {card.data_hash}",
        f"Licence: {card.licence}",
    ]
    console.print(escape("\n".join(lines)), highlight=False)
    if card.pii_left:
        console.print(f"[yellow]Still in it, as the owner wrote it: {escape(counted(card.pii_left))}[/yellow]")


PART = ("conversations", "messages", "answers", "letters", "pairs", "liked", "disliked")


def counted(counts: dict[str, int]) -> str:
    """In words."""
    return ", ".join(f"{number} {kind}" for kind, number in counts.items())
