"""`groupqwen keys`: the keys of this installation, what each may do and what it prefers."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, replace
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from configs.home import home
from configs.ledger import QueryText
from configs.routing import PREFERENCES
from deployments.budgets.limits import KeyLimits
from groupqwen.stack.credentials import remember_key
from serve_app.keys import (
    GROUP_NAME,
    SCOPES,
    LastAdmin,
    change_key,
    create_key,
    read_keys,
    revoke_key,
    rotate_key,
)

app = typer.Typer(help="API keys: who they are for, what they may do, and what they prefer.", no_args_is_help=True)
console = Console()

Most = typer.Option(min=0, help="0: no limit.")
Dollars = typer.Option(min=0.0, help="US dollars; 0: no limit.")

KeyArgument = Annotated[str, typer.Argument(help="The key's id, from `groupqwen keys list`.")]


@app.command("list")
def list_keys() -> None:
    """The keys; their secrets are kept nowhere."""
    table = Table("id", "name", "made", "scopes", "variants", "preference", "group")
    for key in read_keys(home().keys):
        made = time.strftime("%Y-%m-%d", time.localtime(key.created))
        may = "all" if key.variants is None else ", ".join(key.variants)
        preference = key.preference or "as in routing.yaml"
        table.add_row(key.id, key.name, made, ", ".join(key.scopes), may, preference, key.group or "")
    console.print(table)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="chat, finetune, admin; several: say it again.", show_default="chat"),
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Who may answer it; unset: all.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Its requests never leave the group's machines.")] = False,
    own_cache: Annotated[bool, typer.Option("--own-cache", help="It shares no cached answers.")] = False,
    query_text: Annotated[
        str | None, typer.Option(help="What is kept of its questions: text, hash, none.")
    ] = None,
) -> None:
    """Make a key. Its secret is shown once, and kept nowhere. Counts within a second. (What it may ask and spend:
    `groupqwen keys limits`.)"""
    scopes = tuple(dict.fromkeys(scope or ["chat"]))
    if not set(scopes) <= set(SCOPES):
        raise typer.BadParameter(f"there are {', '.join(SCOPES)}", param_hint="--scope")
    variants = None if variant is None else tuple(variant)
    granted: dict[str, Any] = {"scopes": scopes, "variants": variants, "remote": not local, "own_cache": own_cache}
    key, secret = create_key(home().keys, name, **granted, query_text=_policy(query_text))
    console.print(f"{key.id} ({', '.join(scopes)}): {secret}", soft_wrap=True)


@app.command()
def revoke(key: KeyArgument) -> None:
    """Take a key out. Counts within a second."""
    try:
        if not revoke_key(home().keys, key):
            raise _unknown(key)
    except LastAdmin:
        raise typer.BadParameter(
            "it is the last one with the scope admin: make another first", param_hint="KEY"
        ) from None
    console.print(f"{key} is revoked.")


@app.command()
def rotate(key: KeyArgument) -> None:
    """Give a key another secret, which is shown once; the one before counts for nothing within a second."""
    before = next((each.sha256 for each in read_keys(home().keys) if each.id == key), "")
    secret = rotate_key(home().keys, key)
    if secret is None:
        raise _unknown(key)
    remember_key(home(), before, secret)
    console.print(f"{key}: {secret}", soft_wrap=True)


@app.command()
def prefer(
    key: KeyArgument,
    preference: Annotated[str, typer.Argument(help="economy, balanced, best; default: as in routing.yaml.")],
) -> None:
    """What answers with this key are worth, where a request does not say. Counts at once."""
    if preference not in (*PREFERENCES, "default"):
        raise typer.BadParameter(f"there are {', '.join(PREFERENCES)} and default", param_hint="PREFERENCE")
    _change(key, preference=None if preference == "default" else preference)
    console.print(f"{key}: {preference}")


@app.command()
def group(
    key: KeyArgument,
    name: Annotated[str, typer.Argument(help="The group's name; none: of no group.")],
) -> None:
    """Put a key into a group: with `cache: {scope: group}` in routing.yaml, keys of one group are served from each
    other's cached answers. Counts at once."""
    if not re.fullmatch(GROUP_NAME, name):
        raise typer.BadParameter("a group's name is letters, digits, dots and dashes", param_hint="NAME")
    _change(key, group=None if name == "none" else name)
    console.print(f"{key}: {name}")


@app.command()
def limits(
    key: KeyArgument,
    requests_per_minute: Annotated[int | None, Most] = None,
    tokens_per_minute: Annotated[int | None, Most] = None,
    concurrent: Annotated[int | None, typer.Option(min=0, help="Requests at once.")] = None,
    usd_per_day: Annotated[float | None, Dollars] = None,
    usd_per_week: Annotated[float | None, Dollars] = None,
    usd_per_month: Annotated[float | None, Dollars] = None,
    alert_at: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Share of a budget at which you are told.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Nothing is limited any more.")] = False,
) -> None:
    """What a key may ask and spend; without options: what is set. 0 takes one limit away. Counts within a second.

    A request beyond is answered with 429 and the time to try again. US dollars are the catalog's prices; periods
    are those of UTC. What is left: GET /v1/budget.
    """
    found = next((each for each in read_keys(home().keys) if each.id == key), None)
    if found is None:
        raise _unknown(key)
    said = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
        "usd_per_day": usd_per_day,
        "usd_per_week": usd_per_week,
        "usd_per_month": usd_per_month,
        "alert_at": alert_at,
    }
    wanted = {name: value or None for name, value in said.items() if value is not None}
    changed = {**(asdict(KeyLimits()) if none else {}), **wanted}
    _change(key, limits=changed)
    now = replace(found.limits, **changed)
    table = Table(show_header=False, box=None)
    for name, value in asdict(now).items():
        table.add_row(name.replace("_", " "), "no limit" if value is None else f"{value:g}")
    console.print(table)


@app.command()
def privacy(
    key: KeyArgument,
    query_text: Annotated[str, typer.Argument(help="text, hash, none; default: as the profile says.")],
) -> None:
    """What the Ledger keeps of a key's questions: their first 500 characters, a salted hash, or nothing."""
    policy = None if query_text == "default" else _policy(query_text)
    _change(key, query_text=policy)
    console.print(f"{key}: {query_text}")


def _policy(query_text: str | None) -> QueryText | None:
    for known in get_args(QueryText):
        if query_text == known:
            return cast(QueryText, known)
    if query_text is None:
        return None
    raise typer.BadParameter("there are text, hash and none", param_hint="QUERY_TEXT")


def _change(key: str, **fields: Any) -> None:
    if not change_key(home().keys, key, **fields):
        raise _unknown(key)


def _unknown(key: str) -> typer.BadParameter:
    return typer.BadParameter(f"there is no key {key!r}; see `groupqwen keys list`", param_hint="KEY")
