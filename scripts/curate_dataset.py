"""Chats become a dataset: the same as `groupqwen data curate`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import typer

from groupqwen.training.curating import curate

if __name__ == "__main__":
    typer.run(curate)
