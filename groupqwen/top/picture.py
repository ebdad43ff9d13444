"""A recorded frame (`groupqwen top --json`) as a picture of the screen, for the documentation."""

from __future__ import annotations

import io
import re

from pydantic import TypeAdapter
from rich.console import Console

from groupqwen.top.frame import Frame
from groupqwen.top.view import Screen

COLUMNS = 112


def picture(recorded: str) -> str:
    """The SVG, the same on every machine. Raises `ValueError` for what is no frame."""
    frame = TypeAdapter(Frame).validate_json(recorded)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", no_color=False)
    console.print(Screen(frame))
    drawn = console.export_svg(title="groupqwen top", unique_id="top")
    # Whoever reads the documentation loads no font from elsewhere for it.
    return re.sub(r"\n *@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
