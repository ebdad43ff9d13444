"""`groupqwen cache`: what is kept, what is promised of it, and why one question's answer may serve another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from configs.home import home
from configs.routing import load_routing
from deployments.cache.guards import GUARDS
from groupqwen.client import ask, endpoint_and_key, get, whole_answer_seconds
from groupqwen.stack.problem import StartProblem

app = typer.Typer(
    help="The semantic cache: what it keeps, what it promises, what it would do.", no_args_is_help=True
)
console = Console()

MOST_FAILED = 3
"""Questions in a row without an answer: then no more are asked."""


@app.command()
def stats() -> None:
    """How often it answered, what it keeps, and what is promised of answers from similar questions."""
    said = _running("/cache/stats")
    outcomes = said["outcomes"]
    certified = said["mode"] == "certified"
    rate = "-" if said["hit_rate"] is None else f"{said['hit_rate']:.0%}"
    console.print(
        f"Hit rate {rate}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) + "\n"
        f"Kept: {'?' if said['entries'] is None else said['entries']} answers, {said['size_mb'] or 0:.1f} of "
        f"{said['max_size_mb']} MB\n"
        f"Saved since the start: {said['completion_tokens_saved']:,} tokens, {said['seconds_saved']:,.0f} s, "
        f"${said['cost_saved_usd']:,.4f}\n"
        f"Mode {said['mode']}"
        + (f": wrong answers to at most {said['wrong_per_request']:.1%} of requests" if certified else "")
    )
    numbers = [
        Column(name, justify="right")
        for name in ("checks", "serves from P", "of these checked", "wrong", "per request ≤", "per hit ≤")
    ]
    table = Table("partition", *numbers)
    for name, one in said["partitions"].items():
        serves = one["threshold"] is not None
        bounds = (f"{one['per_request']:.2%}", f"{one['per_hit']:.2%}") if serves else ("-", "-")
        table.add_row(
            name,
            str(one["checks"]),
            f"{one['threshold']:.3f}" if serves else "nothing yet",
            str(one["labels"]),
            str(one["wrong"]),
            *bounds,
        )
    console.print(
        table if said["partitions"] else "Nothing was checked yet: every miss beside an entry is a check."
    )
    for name, known in said["verifier"].items():
        console.print(
            f"The verifier, {name}: {known['labels']} of its yeses checked, {known['wrong']} wrong; if they "
            f"served, wrong answers to at most {known['per_request']:.2%} of requests"
        )


@app.command()
def search(
    query: Annotated[str | None, typer.Argument(help="What to look for; without it: any entries.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
) -> None:
    """Show kept answers, those nearest to a query first."""
    _show(_running("/cache/entries", query=query, limit=limit)["entries"])


@app.command()
def forget(
    query: Annotated[str | None, typer.Argument(help="Forget what was answered to this, or nearly this.")] = None,
    distance: Annotated[float, typer.Option(min=0, max=2, help="How far from it, cosine.")] = 0.05,
    variant: Annotated[str | None, typer.Option(help="Only what this variant has answered.")] = None,
    knowledge: Annotated[
        str | None, typer.Option(help="Only what rests on this (`metadata.knowledge` of a request).")
    ] = None,
    entry: Annotated[list[str] | None, typer.Option(help="An entry's id, from `groupqwen cache search`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would go.")] = False,
) -> None:
    """Forget kept answers, everywhere and at once. Shows them first: add --yes to do it."""
    if not (query or variant or knowledge or entry):
        raise typer.BadParameter("say a query, --variant, --knowledge or --entry", param_hint="QUERY")
    wanted = {"query": query, "variant": variant, "knowledge": knowledge, "distance": distance}
    body = {**wanted, "ids": entry or [], "dry_run": not yes}
    said = _running("/cache/forget", {name: value for name, value in body.items() if value is not None})
    _show(said["entries"])
    console.print(f"{said['deleted']} forgotten." if yes else "Nothing was forgotten: add --yes.")


@app.command()
def pin(
    entry: Annotated[list[str], typer.Argument(help="Entries' ids, from `groupqwen cache search`.")],
) -> None:
    """Let entries stay until they are forgotten, whatever else is kept."""
    console.print(f"{_running('/cache/pin', {'ids': entry})['pinned']} pinned.")


@app.command("export")
def export_entries(
    target: Annotated[Path, typer.Argument(help="Where to: a file, one JSON object a line.")],
) -> None:
    """Write down everything that is kept, for `groupqwen cache import`. Readable by you alone: it is in clear."""
    with _told():
        target.touch(mode=0o600)
        target.chmod(0o600)
        with target.open("w") as file:
            count = asyncio.run(_written_to(file))
    console.print(f"{count} entries in {target}")


async def _written_to(file: TextIO) -> int:
    from groupqwen.cache_files import here, taken_out

    count = 0
    async with here() as (store, seal, _):
        async for line in taken_out(store, seal):
            file.write(line + "\n")
            count += 1
    return count


@app.command("import")
def import_entries(
    source: Annotated[Path, typer.Argument(help="A file of `groupqwen cache export`, or written by hand.")],
    key: Annotated[
        str | None,
        typer.Option(help="By hand: whose answers they are, from `groupqwen keys list`; unset: the first."),
    ] = None,
) -> None:
    """Keep the answers of a file: exported ones as they were, and lines of your own,
    {"query": "…", "answer": "…"}, until they are forgotten.

    A line of your own may also say `model`, `system` and `knowledge`: it serves requests that have just these, and
    no other parameters.
    """
    with _told():
        count = asyncio.run(_from_file(source, key))
    console.print(f"{count} answers are kept now.")


async def _from_file(source: Path, key_id: str | None) -> int:
    from groupqwen.cache_files import here, owner, put_in, read_entries

    async with here() as (store, seal, settings):
        rules = load_routing().cache
        entries = list(read_entries(source, store, seal, owner(settings.home, key_id), rules))
        return await put_in(store, entries, console)


@app.command()
def warm(
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many questions.")] = 50,
) -> None:
    """Ask what you have asked most often once more, so that the answers are there. Questions that are never kept
    are left out."""
    from rich.progress import track

    from deployments.cache.eligibility import changes
    from groupqwen.routers import from_ledger
    from serve_app.keys import hash_key, read_keys

    with _told():
        endpoint, key = endpoint_and_key()
        mine = next(each.id for each in read_keys(home().keys) if each.sha256 == hash_key(key))
        found = asyncio.run(from_ledger(lambda store: store.most_asked(mine, top)))
        questions = [question for question in found if changes(question) is None]
        seconds = whole_answer_seconds()
        answered, in_a_row, failed = 0, 0, list[StartProblem]()
        for question in track(questions, "asking", console=console, transient=True):
            body = {"messages": [{"role": "user", "content": question}]}
            try:
                ask(endpoint, key, "/chat/completions", body, seconds)
                answered, in_a_row = answered + 1, 0
            except StartProblem as problem:
                failed.append(problem)
                in_a_row += 1
                if in_a_row == MOST_FAILED:
                    break
    console.print(f"{answered} questions asked; groupqwen cache stats says what is kept.")
    if failed:
        left = len(questions) - answered - len(failed)
        stopped = f", {left} not asked" if left else ""
        console.print(f"[red]{len(failed)} without an answer{stopped}; the last: {escape(str(failed[-1]))}[/red]")
        raise typer.Exit(1)


@app.command()
def encrypt() -> None:
    """Make a key, with which questions and answers are encrypted in Redis from the next start on. What is kept in
    clear now is deleted then; without the key, what is kept afterwards cannot be read."""
    from deployments.cache.seal import make_key

    try:
        make_key(home().cache_key)
    except FileExistsError:
        console.print(f"There is a key already: {home().cache_key}")
        raise typer.Exit(1) from None
    console.print(
        f"Made: {home().cache_key} (keep a copy elsewhere). Now: bash scripts/down.sh && bash scripts/up.sh"
    )


@app.command()
def calibrate(
    pairs: Annotated[Path, typer.Argument(help="Labelled: CSV or JSON lines with `a`, `b`, `same` (0 or 1).")],
) -> None:
    """Learn P(same answer) from labelled pairs of questions, and show what it is worth on held-out ones.

    Needs no running service. `groupqwen deploy` brings it into service; in mode certified it is what is believed
    until enough was checked.
    """
    from groupqwen.cache_calibration import Calibrated, calibrated

    with _told():
        found: Calibrated | None = calibrated(pairs, console)
    if found is None:
        raise typer.Exit(1)
    table = Table(
        "P(same answer) ≥", *(Column(name, justify="right") for name in ("served", "right", "of all same"))
    )
    for least, served, right, recall in found.rows:
        table.add_row(f"{least:.2f}", f"{served:.0%}", "-" if right is None else f"{right:.1%}", f"{recall:.0%}")
    console.print(table)
    console.print(
        f"{found.pairs} pairs, each judged by a model that has not seen it: log loss {found.loss:.3f} "
        f"(as shipped {found.loss_before:.3f})"
    )
    if found.loss >= found.loss_before:
        console.print("No better than what is shipped: nothing was changed.")
        raise typer.Exit(1)
    found.write(home().cache_likeness)
    console.print(f"Written: {home().cache_likeness}. Now: groupqwen deploy")


@contextmanager
def _told() -> Iterator[None]:
    """What can go wrong with files and a group that does not run, in words."""
    from redis.exceptions import RedisError

    from groupqwen.cache_files import CacheFileError
    from groupqwen.outcomes import OutcomesError

    try:
        yield
    except (StartProblem, OutcomesError, CacheFileError, OSError) as problem:
        console.print(f"[red]{escape(str(problem))}[/red]")
        raise typer.Exit(1) from None
    except RedisError as problem:
        console.print(f"[red]Redis does not answer ({escape(str(problem))}): run `bash scripts/up.sh`[/red]")
        raise typer.Exit(1) from None


def _running(path: str, body: dict[str, Any] | None = None, **parameters: object) -> dict[str, Any]:
    """Ask the group that runs here."""
    try:
        endpoint, key = endpoint_and_key()
        if body is not None:
            said = ask(endpoint, key, path, body)
        else:
            said = get(endpoint, key, path, parameters={k: v for k, v in parameters.items() if v is not None})
    except StartProblem as problem:
        console.print(f"[red]{problem}[/red]")
        raise typer.Exit(1) from None
    found: dict[str, Any] = said.json()
    return found


def _show(entries: list[dict[str, Any]]) -> None:
    if not entries:
        console.print("No entries.")
        return
    for one in entries:
        near = "" if one["distance"] is None else f", distance {one['distance']:.3f}"
        console.print(f"[bold]{escape(one['query'])}[/bold]", highlight=False)
        console.print(f"  {escape(' '.join(one['answer'].split())[:200])}", highlight=False)
        left = one["expires_in_seconds"]
        expires = "pinned" if left is None else f"expires in {left // 60} min"
        console.print(f"  [dim]{one['variant']}{near}, {expires}, --entry {one['id']}[/dim]", soft_wrap=True)


@app.command()
def explain(
    asked: Annotated[str, typer.Argument(help="The question that is asked.")],
    kept: Annotated[str, typer.Argument(help="The question whose answer is kept.")],
) -> None:
    """Say whether the answer to one question may serve another: their distance, and what each guard finds. Needs
    no running service."""
    from groupqwen.vectors import vectors_of

    vectors = vectors_of([asked, kept], console)
    if vectors is None:
        raise typer.Exit(1)
    from deployments.cache.answer import Near
    from deployments.cache.calibrated import likeness_at
    from deployments.cache.eligibility import changes
    from deployments.cache.experience import Experience
    from deployments.embedding.embedder import fingerprint_of

    rules = load_routing().cache
    distance = float(1 - vectors.values[0] @ vectors.values[1])
    table = Table("step", Column("says", overflow="fold"), show_edge=False)
    varies = changes(asked)
    table.add_row("eligible", f"no: {varies}" if varies else "yes")
    table.add_row("cosine distance", f"{distance:.3f}")
    for name, guard in GUARDS.items():
        table.add_row(name, guard(asked, kept) or "nothing")
    known = Experience(rules)
    known.take(rules, likeness_at(home().cache_likeness, fingerprint_of(vectors.file)))
    verdict = known.decide(asked, [Near("kept", kept, distance, "kept")], vectors.values[0], "here")
    table.add_row(f"mode {rules.mode}", verdict.why)
    console.print(table)
    if verdict.serves is not None and not varies:
        console.print("It may serve, where all else (key, system prompt, parameters) is the same.")
    else:
        console.print("It does not serve: the question is answered anew.")
    if rules.mode == "certified":
        console.print(
            "(Before anything was checked: `groupqwen cache stats` shows what a running group has learned.)"
        )
