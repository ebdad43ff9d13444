"""`groupqwen keys`: the keys of this installation, and what each prefers."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from configs.home import home
from configs.routing import PREFERENCES
from serve_app.keys import read_keys, set_preference

app = typer.Typer(help="API keys: who they are for, and what they prefer.", no_args_is_help=True)
console = Console()


@app.command("list")
def list_keys() -> None:
    """The keys; their secrets are kept nowhere."""
    table = Table("id", "name", "made", "preference")
    for key in read_keys(home().keys):
        made = time.strftime("%Y-%m-%d", time.localtime(key.created))
        table.add_row(key.id, key.name, made, key.preference or "as in routing.yaml")
    console.print(table)


@app.command()
def prefer(
    key: Annotated[str, typer.Argument(help="The key's id, from `groupqwen keys list`.")],
    preference: Annotated[str, typer.Argument(help="economy, balanced, best; default: as in routing.yaml.")],
) -> None:
    """What answers with this key are worth, where a request does not say. Counts at once."""
    if preference not in (*PREFERENCES, "default"):
        raise typer.BadParameter(f"there are {', '.join(PREFERENCES)} and default", param_hint="PREFERENCE")
    if not set_preference(home().keys, key, None if preference == "default" else preference):
        raise typer.BadParameter(f"there is no key {key!r}; see `groupqwen keys list`", param_hint="KEY")
    console.print(f"{key}: {preference}")
