"""The machine that a measurement was made on, in one line; and tables for people and files."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

console = Console(width=130)


def machine() -> str:
    """Processor, cores, memory, system."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}"


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table, and the same as Markdown, ready for the documents."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"[dim]{machine()}[/dim]")
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    print("\n" + "\n".join(lines) + "\n")
