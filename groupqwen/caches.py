"""`groupqwen cache`: what is kept, what is promised of it, and why one question's answer may serve another."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from configs.routing import load_routing
from deployments.cache.guards import GUARDS
from groupqwen.client import ask, endpoint_and_key, get
from groupqwen.stack.problem import StartProblem

app = typer.Typer(
    help="The semantic cache: what it keeps, what it promises, what it would do.", no_args_is_help=True
)
console = Console()


@app.command()
def stats() -> None:
    """How often it answered, what it keeps, and what is promised of answers from similar questions."""
    said = _running("/cache/stats")
    outcomes, entries = said["outcomes"], said["entries"] or {}
    certified = said["mode"] == "certified"
    rate = "-" if said["hit_rate"] is None else f"{said['hit_rate']:.0%}"
    console.print(
        f"Hit rate {rate}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) + "\n"
        f"Kept: {entries.get('exact', '?')} answers, {entries.get('semantic', '?')} of them for similar questions "
        f"too; {said['completion_tokens_saved']:,} tokens saved since the start\n"
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
    entry: Annotated[list[str] | None, typer.Option(help="An entry's id, from `groupqwen cache search`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only show what would go.")] = False,
) -> None:
    """Forget kept answers, everywhere and at once. Shows them first: add --yes to do it."""
    if not (query or variant or entry):
        raise typer.BadParameter("say a query, --variant or --entry", param_hint="QUERY")
    body = {"ids": entry or [], "query": query, "variant": variant, "distance": distance, "dry_run": not yes}
    said = _running("/cache/forget", {name: value for name, value in body.items() if value is not None})
    _show(said["entries"])
    console.print(f"{said['deleted']} forgotten." if yes else "Nothing was forgotten: add --yes.")


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
        expires = f"expires in {one['expires_in_seconds'] // 60} min"
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
    from deployments.cache.eligibility import changes
    from deployments.cache.experience import Experience

    rules = load_routing().cache
    distance = float(1 - vectors.values[0] @ vectors.values[1])
    table = Table("step", Column("says", overflow="fold"), show_edge=False)
    varies = changes(asked)
    table.add_row("eligible", f"no: {varies}" if varies else "yes")
    table.add_row("cosine distance", f"{distance:.3f}")
    for name, guard in GUARDS.items():
        table.add_row(name, guard(asked, kept) or "nothing")
    verdict = Experience(rules).decide(asked, [Near("kept", kept, distance, "kept")], vectors.values[0], "here")
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
