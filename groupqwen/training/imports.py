"""`groupqwen data import` and `groupqwen data list`: other services' exports, and our own rated answers, become
conversations to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from configs.home import home
from groupqwen.training import data

if TYPE_CHECKING:
    from train.conversation import Conversation
    from train.export.importing import Import
    from train.export.report import Report

console = Console()
errors = Console(stderr=True)

MOST_LINES = 40
"""Of the table of what was left. (The report beside the file has all.)"""


@data.command("import")
def import_(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Exports: a zip as the service sent it, its folder, JSON or JSON lines.", metavar="FILE..."
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="chatgpt, claude, perplexity, open-webui, messages, sharegpt, alpaca, pairs or ledger; unset: it "
            "is found out.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the import; unset: as the first file.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Leave conversations that began before this day (UTC)."),
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Also the answers of this group that were rated or corrected.")
    ] = False,
) -> None:
    """Import chats: ChatGPT, Claude, Perplexity, Open WebUI, plain data, and this group's own rated answers.

    What cannot be read costs only itself; a table says what was taken and left, and why.
    """
    from groupqwen.stack.problem import StartProblem
    from train.conversation import DataError
    from train.export.importing import Import, name_for, write_import

    paths = files or []
    if not paths and not ledger:
        raise typer.BadParameter("name a file, or say --ledger", param_hint="FILE...")
    called = name or (name_for(paths[0]) if paths else "ledger")
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"{path}: there is no such file", param_hint="FILE...")
    try:
        importing = Import(form, since.replace(tzinfo=UTC).timestamp() if since else None)
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--as") from None
    try:
        with _progress() as bar:
            task = bar.add_task("Importing", total=_size(paths) or None)
            conversations = _all(importing, paths, ledger, lambda count: bar.advance(task, count))
            path = write_import(home().training / "imports", called, importing, conversations)
            bar.update(task, completed=_size(paths))
    except (DataError, StartProblem) as error:
        _show(importing.report)
        errors.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(1) from None
    _show(importing.report)
    report = importing.report
    console.print(
        f"{report.conversations:,} conversations with {report.messages:,} messages: {escape(str(path))}\n"
        f"`groupqwen data curate {escape(called)}` makes a dataset of them."
    )


@data.command("list")
def list_() -> None:
    """What was imported."""
    folder = home().training / "imports"
    table = Table("name", "from", Column("conversations", justify="right"), Column("messages", justify="right"))
    table.add_column("bytes", justify="right")
    for path in sorted(folder.glob("*.jsonl")):
        said = _report(folder / f"{path.stem}.report.json")
        taken = said.get("taken", {})
        forms = sorted({file["format"] for file in said.get("files", [])})
        counts = (f"{taken[key]:,}" if key in taken else "?" for key in ("conversations", "messages"))
        table.add_row(escape(path.stem), escape(", ".join(forms)) or "?", *counts, f"{path.stat().st_size:,}")
    if not table.row_count:
        console.print("Nothing was imported yet: `groupqwen data import FILE...`")
        return
    console.print(table)


def _all(importing: Import, paths: list[Path], ledger: bool, progress: Any) -> Iterator[Conversation]:
    from train.export.detect import FORMATS

    yield from importing.files(paths, progress)
    if ledger:
        yield from importing.rows("the Ledger", _rated(), FORMATS["ledger"])


def _rated() -> Iterator[dict[str, Any]]:
    """What the running group's Ledger has. Raises `StartProblem`."""
    import httpx

    from groupqwen.client import endpoint_and_key
    from groupqwen.stack.deploy import http
    from groupqwen.stack.problem import StartProblem

    endpoint, key = endpoint_and_key()
    headers = {"Authorization": f"Bearer {key}"}
    try:
        with http().stream("GET", f"{endpoint}/examples", headers=headers, timeout=60) as answer:
            if answer.status_code != 200:
                answer.read()
                raise StartProblem(
                    f"the Ledger does not answer (status {answer.status_code}): see `groupqwen status`"
                )
            for line in answer.iter_lines():
                if line.strip():
                    yield json.loads(line)
    except (httpx.HTTPError, ValueError) as error:
        raise StartProblem(
            f"nothing answers at {endpoint}, or no longer ({error}): is it up? `bash scripts/up.sh`"
        ) from None


def _size(paths: list[Path]) -> int:
    """Bytes that will be read, unpacked."""
    from train.conversation import DataError
    from train.export.archive import open_export

    total = 0
    for path in paths:
        with suppress(DataError), open_export(path) as export:
            total += sum(part.size for part in export.parts)
    return total


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
    )


def _report(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said


def _show(report: Report) -> None:
    """What was taken and left."""
    files = Table("file", "format", Column("conversations", justify="right"))
    for file in report.files:
        files.add_row(escape(file.name), file.format, f"{file.conversations:,}")
    if files.row_count:
        console.print(files)
    lines = list(report.lines())
    if not lines:
        return
    table = Table("left", Column("count", justify="right"), "why", "the first")
    for kind, reason, tally in lines[:MOST_LINES]:
        table.add_row(kind, f"{tally.count:,}", escape(reason), escape(tally.examples[0]))
    if len(lines) > MOST_LINES:
        table.add_row("", "", f"and {len(lines) - MOST_LINES} reasons more, in the report", "")
    console.print(table)
