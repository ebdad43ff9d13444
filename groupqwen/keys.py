"""`groupqwen keys`: the keys of this installation, and what each prefers."""

from __future__ import annotations

import re
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from configs.home import home
from configs.routing import PREFERENCES
from serve_app.keys import change_key, read_keys

GROUP_NAME = r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}"

app = typer.Typer(help="API keys: who they are for, and what they prefer.", no_args_is_help=True)
console = Console()


@app.command("list")
def list_keys() -> None:
    """The keys; their secrets are kept nowhere."""
    table = Table("id", "name", "made", "preference", "group")
    for key in read_keys(home().keys):
        made = time.strftime("%Y-%m-%d", time.localtime(key.created))
        table.add_row(key.id, key.name, made, key.preference or "as in routing.yaml", key.group or "")
    console.print(table)


@app.command()
def prefer(
    key: Annotated[str, typer.Argument(help="The key's id, from `groupqwen keys list`.")],
    preference: Annotated[str, typer.Argument(help="economy, balanced, best; default: as in routing.yaml.")],
) -> None:
    """What answers with this key are worth, where a request does not say. Counts at once."""
    if preference not in (*PREFERENCES, "default"):
        raise typer.BadParameter(f"there are {', '.join(PREFERENCES)} and default", param_hint="PREFERENCE")
    _change(key, preference=None if preference == "default" else preference)
    console.print(f"{key}: {preference}")


@app.command()
def group(
    key: Annotated[str, typer.Argument(help="The key's id, from `groupqwen keys list`.")],
    name: Annotated[str, typer.Argument(help="The group's name; none: of no group.")],
) -> None:
    """Put a key into a group: with `cache: {scope: group}` in routing.yaml, keys of one group are served from each
    other's cached answers. Counts at once."""
    if not re.fullmatch(GROUP_NAME, name):
        raise typer.BadParameter("a group's name is letters, digits, dots and dashes", param_hint="NAME")
    _change(key, group=None if name == "none" else name)
    console.print(f"{key}: {name}")


def _change(key: str, **fields: str | None) -> None:
    if not change_key(home().keys, key, **fields):
        raise typer.BadParameter(f"there is no key {key!r}; see `groupqwen keys list`", param_hint="KEY")
