"""`groupqwen cache`: why one question's answer may serve another, or not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from configs.routing import load_routing
from deployments.cache.guards import GUARDS, may_serve

app = typer.Typer(help="The semantic cache: see what it would do.", no_args_is_help=True)
console = Console()


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
    rules = load_routing().cache
    distance = float(1 - vectors.values[0] @ vectors.values[1])
    table = Table("step", Column("says", overflow="fold"), show_edge=False)
    near = "near enough" if distance <= rules.distance else "too far"
    table.add_row("cosine distance", f"{distance:.3f}: {near} (up to {rules.distance:g})")
    for name, guard in GUARDS.items():
        table.add_row(name, guard(asked, kept) or "nothing")
    console.print(table)
    if may_serve(asked, kept, distance, rules):
        console.print("It may serve, where all else (key, system prompt, parameters) is the same.")
    else:
        console.print("It does not serve: the question is answered anew.")
