"""`groupqwen usage` and `groupqwen trace`: what the Ledger says."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from groupqwen.client import endpoint_and_key, get
from groupqwen.stack.problem import StartProblem

console = Console()


def usage(
    by: Annotated[Literal["variant", "key", "day"], typer.Option(help="What a row is of.")] = "variant",
    days: Annotated[int, typer.Option(min=1, max=400, help="So many days back, the present one included.")] = 30,
    key: Annotated[str | None, typer.Option(help="Of one key, from `groupqwen keys list`.")] = None,
) -> None:
    """Requests, tokens, cost and what was saved (the largest variant's cost, less what was spent)."""
    wanted = {"by": by, "days": days, **({"key": key} if key else {})}
    said = _asked("/usage", wanted)
    numbers = (
        "requests",
        "failed",
        "by the cache",
        "tokens read",
        "written",
        "cost $",
        "power $",
        "saved $",
        "first token",
        "p95",
    )
    table = Table(by, *(Column(name, justify="right") for name in numbers))
    for row in said["rows"]:
        first, whole = row["ttft_ms_p50"], row["latency_ms_p95"]
        table.add_row(
            row["name"],
            *(f"{row[name]:,}" for name in ("requests", "failed", "hits", "prompt_tokens", "completion_tokens")),
            *(f"{row[name]:.4f}" for name in ("cost_usd", "electricity_usd", "saved_usd")),
            *("-" if one is None else f"{one / 1e3:.2f} s" for one in (first, whole)),
        )
    console.print(table if said["rows"] else "Nothing was asked in this time.")


def trace(
    request_id: Annotated[str, typer.Argument(help="`x-request-id` of an answer.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Everything about one request: who answered, why, who was passed over, what it took."""
    said = _asked(f"/requests/{request_id}", {})
    if as_json:
        console.print_json(json.dumps(said))
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said["at"]))
    console.print(f"[bold]{escape(said['query'])}[/bold]", highlight=False)
    table = Table(show_header=False, box=None)
    route = said["trace"]
    distance = "" if said["cache_distance"] is None else f", distance {said['cache_distance']:.3f}"
    table.add_row("asked", f"{at}, {said['key_id']}, from {said['device']}, for {said['requested']}")
    table.add_row("cache", said["cache"] + distance)
    table.add_row(
        "answered by", f"{said['variant'] or 'nobody'}: {escape(route.get('reason', said['error'] or ''))}"
    )
    for one in route.get("candidates", ()):
        if one["passed_over"]:
            table.add_row("", f"not {one['variant']}: {escape(one['passed_over'])}")
    for one in route.get("attempts", ()):
        sure = "" if one["confidence"] is None else f", P(right) {one['confidence']:.2f}"
        table.add_row(
            "", f"{one['variant']} {one['outcome']} after {one['ms']:.0f} ms, {one['tokens']} tokens{sure}"
        )
    first = "-" if said["ttft_ms"] is None else f"{said['ttft_ms']:.0f} ms"
    table.add_row(
        "took", f"first token {first}, all {said['latency_ms']:.0f} ms; {said['finish_reason'] or said['error']}"
    )
    read = f"{said['prompt_tokens']} read ({said['cached_tokens']} of them known)"
    table.add_row("tokens", f"{read}, {said['completion_tokens']} written")
    drew = "" if said["energy_wh"] is None else f"; {said['energy_wh']:.4f} Wh, ${said['electricity_usd']:.6f}"
    table.add_row("cost", f"${said['cost_usd']:.6f}, saved ${said['saved_usd'] or 0:.6f}{drew}")
    for one in said["feedback"]:
        table.add_row("said of it", one["rating"] + (f": {escape(one['comment'])}" if one["comment"] else ""))
    console.print(table)


def _asked(path: str, parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        endpoint, key = endpoint_and_key()
        found: dict[str, Any] = get(endpoint, key, path, parameters=parameters).json()
    except StartProblem as problem:
        console.print(f"[red]{escape(str(problem))}[/red]")
        raise typer.Exit(1) from None
    return found
