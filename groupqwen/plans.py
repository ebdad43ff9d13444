"""A plan as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from configs.planner import Plan, Row


def show_plan(plan: Plan, console: Console) -> None:
    """Print it: sizes in GiB, and beneath the table what they add up to."""
    sizes = [Column(title, justify="right", no_wrap=True) for title in ("weights", "KV", "rest", "all", "share")]
    table = Table(
        Column("variant", no_wrap=True),
        *sizes,
        Column("context", justify="right", no_wrap=True),
        Column("kept", no_wrap=True),
        title=f"{plan.profile.name}: GiB of {plan.profile.machine.name}",
    )
    for row in plan.rows:
        table.add_row(
            f"{row.variant}\n[dim]  {_made_of(row, plan)}[/dim]",
            *(gib(size) for size in (row.weights_mb, row.kv_mb, row.overhead_mb, row.total_mb)),
            f"{100 * plan.share(row):.0f} %",
            f"{row.context:,}×{row.parallel}" + ("" if row.kv_dtype == "f16" else " q8"),
            "always" if row.resident else "swaps",
        )
    console.print(table)
    console.print(plan.profile.description)
    console.print(
        ", ".join(f"{role.removeprefix('levels.')} → {name}" for role, name in plan.profile.roles.items())
    )
    line = f"Kept always: {gib(plan.resident_mb)} GiB"
    if plan.swaps:
        line += f"; the largest that is swapped in beside it: {gib(plan.largest_swapped_mb)} GiB"
    console.print(f"{line}; budget: {gib(plan.budget_mb)} of {gib(plan.memory_mb)} GiB")


def _made_of(row: Row, plan: Plan) -> str:
    """The file, and where the CPU computes, with how many threads."""
    threads = plan.profile.variants[row.variant].threads
    on_cpu = plan.profile.machine.accelerator == "cpu" and threads
    return f"{row.quantization}, {threads} thread{'s' if threads != 1 else ''}" if on_cpu else row.quantization


def gib(mebibytes: int) -> str:
    return f"{mebibytes / 1024:.1f}"
