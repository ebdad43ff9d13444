"""`groupqwen adapters promote` and `demote`: what was trained begins to serve, and ceases to."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from groupqwen.client import ask, endpoint_and_key
from groupqwen.training import adapters

console = Console()

PROMOTE_SECONDS = 600.0
"""Its base may have to come into memory first."""

NameArgument = Annotated[str, typer.Argument(help="The adapter's name, from `groupqwen adapters list`.")]


@adapters.command()
def promote(
    name: NameArgument,
    share: Annotated[
        str, typer.Option(help="Of its base's conversations, those that it answers: 20%, or 0.2.")
    ] = "0",
    shadow: Annotated[str, typer.Option(help="Of its base's answers, those that it is asked for unheard.")] = "0",
    force: Annotated[
        bool, typer.Option("--force", help="Although its gate refuses it; this is written down.")
    ] = False,
) -> None:
    """Let an adapter serve beside its base, which is not restarted. It is asked a question first."""
    body = {"share": fraction(share, "--share"), "shadow": fraction(shadow, "--shadow"), "force": force}
    said = _asked(f"/adapters/{name}/promote", body)
    serves = [f"as {said['model']}"]
    serves += [f"to {body['share']:.0%} of {said['base']}'s conversations"] if body["share"] else []
    serves += [f"unheard to {body['shadow']:.0%} of its answers"] if body["shadow"] else []
    forced = " (by force)" if said["promotion"]["forced"] else ""
    console.print(
        f"{name} answers {', '.join(serves)}{forced}. Asked first, it said: {escape(said['answer'].strip())}"
    )


@adapters.command()
def demote(name: NameArgument) -> None:
    """Let an adapter serve nobody any more, from the next request on."""
    said = _asked(f"/adapters/{name}/demote", {})
    console.print(f"{name} answers nobody any more; {said['base']} does without it.")


def fraction(text: str, option: str) -> float:
    """`20%` or `0.2` as a number from 0 to 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text!r} is no share: say 20% or 0.2", param_hint=option)
    return value


def _asked(path: str, body: dict[str, Any]) -> dict[str, Any]:
    return dict(ask(*endpoint_and_key(), path, body, seconds=PROMOTE_SECONDS).json())
