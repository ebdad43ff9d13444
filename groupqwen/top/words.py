"""Numbers as a narrow column has room for them. `NOTHING` stands for what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"
LEVELS = "▁▂▃▄▅▆▇█"


def number(value: float | None) -> str:
    """Three digits, or as many as stand before the point."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def pair(one: float | None, other: float | None) -> str:
    """Two quantiles of the same."""
    return NOTHING if one is None and other is None else f"{number(one)}/{number(other)}"


def gib(mebibytes: float | None) -> str:
    return NOTHING if mebibytes is None else f"{mebibytes / 1024:.1f}"


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float | None) -> str:
    """The two largest units."""
    if seconds is None:
        return NOTHING
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def dollars(value: float | None) -> str:
    return NOTHING if value is None else f"${value:.2f}" if value >= 1 else f"${value:.4f}"


def sparkline(values: Sequence[float | None], most: float | None = None) -> str:
    """A character each, from nothing to `most` (unset: the largest); a gap where nothing can be said."""
    top = max((value for value in values if value is not None), default=0.0) if most is None else most
    return "".join(" " if value is None else LEVELS[_level(value, top)] for value in values)


def _level(value: float, top: float) -> int:
    return 0 if top <= 0 else min(len(LEVELS) - 1, max(0, int(value / top * len(LEVELS))))


def bar(filled: float, coming: float, budget: float | None, width: int) -> str:
    """`filled` of the budget, and `coming` after it; empty where no budget is known. What is there shows, however
    little."""
    if budget is None or budget < 1:
        return " " * width
    full = min(width, max(int(filled > 0), round(width * filled / budget)))
    with_coming = min(width, max(full + int(coming > 0), round(width * (filled + coming) / budget)))
    return "█" * full + "▒" * (with_coming - full) + "░" * (width - with_coming)
