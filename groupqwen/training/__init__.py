"""`groupqwen data`, `groupqwen train` and `groupqwen adapters`: from the owner's chats to a served adapter."""

from __future__ import annotations

import typer

data = typer.Typer(help="The owner's chats: import, curate, look.", no_args_is_help=True)
train = typer.Typer(help="Fine-tune a model on them.", no_args_is_help=True)
adapters = typer.Typer(help="What was trained: list, compare, promote.", no_args_is_help=True)
