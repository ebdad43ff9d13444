"""The one way through a tree of messages that its reader saw: from a leaf to the root. Pure.

Exports hold every answer that was regenerated and every question that was edited; only one branch is the
conversation. Trees may be broken: parents that are missing, that go round in a circle, or that are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Prefer = Literal["deepest", "newest"]


@dataclass(frozen=True)
class Way:
    """From the root on."""

    nodes: tuple[str, ...]
    guessed: bool
    """Whether the export did not say at which leaf it ends."""
    cut: bool
    """Whether its beginning is missing: a parent that is not there."""
    circle: bool
    """Whether it went round in a circle."""


def way(
    parents: Mapping[str, str | None],
    current: object,
    at: Callable[[str], float | None],
    prefer: Prefer = "deepest",
) -> Way:
    """The way to `current`; where that is no node, to the leaf that is deepest (and of those the newest), or that
    is newest. `parents`: of every node; None of a root. `at`: when a node was written."""
    guessed = not (isinstance(current, str) and current in parents)
    leaf = _leaf(parents, at, prefer) if guessed else str(current)
    nodes: list[str] = []
    seen: set[str] = set()
    cut = circle = False
    node = leaf
    while node is not None:
        if node in seen:
            circle = True
            break
        if node not in parents:
            cut = True
            break
        seen.add(node)
        nodes.append(node)
        node = parents[node]
    return Way(tuple(reversed(nodes)), guessed and bool(nodes), cut, circle)


def parents_of(nodes: Mapping[str, Any]) -> dict[str, str | None]:
    """Each node's parent, as it says itself, or else as its parent says (`parent`, `children`)."""
    from_above: dict[str, str] = {}
    for name, node in nodes.items():
        children = node.get("children") if isinstance(node, Mapping) else None
        for child in children if isinstance(children, list) else ():
            if isinstance(child, str) and child in nodes:
                from_above.setdefault(child, name)
    found: dict[str, str | None] = {}
    for name, node in nodes.items():
        parent = node.get("parent") if isinstance(node, Mapping) else None
        if not isinstance(parent, str) or parent not in nodes:
            parent = from_above.get(name, parent if isinstance(parent, str) and parent else None)
        found[name] = parent
    return found


def _leaf(parents: Mapping[str, str | None], at: Callable[[str], float | None], prefer: Prefer) -> str | None:
    inner = set(parents.values())
    # (Where all is one circle, there is no leaf, and any node will do.)
    leaves = [node for node in parents if node not in inner] or list(parents)
    depths = _depths(parents)

    def rank(node: str) -> tuple[float, float, str]:
        deep, new = float(depths[node]), at(node) or 0.0
        return (deep, new, node) if prefer == "deepest" else (new, deep, node)

    return max(leaves, key=rank, default=None)


def _depths(parents: Mapping[str, str | None]) -> dict[str, int]:
    """How many nodes lie above each, in time linear in their number; a circle ends the count."""
    depths: dict[str, int] = {}
    for start in parents:
        trail: list[str] = []
        on_trail: set[str] = set()
        node: str | None = start
        while node is not None and node in parents and node not in depths and node not in on_trail:
            trail.append(node)
            on_trail.add(node)
            node = parents[node]
        depth = depths.get(node, -1) if node is not None else -1
        for passed in reversed(trail):
            depth += 1
            depths[passed] = depth
    return depths
