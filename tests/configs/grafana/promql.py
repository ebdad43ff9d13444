"""What the dashboards and the alert rules ask Prometheus for, taken apart by a PromQL parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

FOLDER = Path(__file__).parents[3] / "configs" / "grafana"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
SPANS = {"$__rate_interval": "1m", "$__range": "1d"}


@dataclass(frozen=True)
class Query:
    """One expression, as Grafana or Prometheus sends it, and where it stands."""

    where: str
    expression: str

    @property
    def series(self) -> dict[str, set[str]]:
        """Every series that it names → the labels that it wants of it."""
        found: dict[str, set[str]] = {}
        for name, labels in _selected(promql.parse(self.expression), frozenset()):
            found.setdefault(name, set()).update(labels)
        return found


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def shown() -> Iterator[Query]:
    """What the dashboards ask for: panels, annotations, and the values of their variables."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Query(f"{name}: {panel['title']} {target['refId']}", _as_sent(target["expr"]))
        for note in dashboard["annotations"]["list"]:
            yield Query(f"{name}: {note['name']}", _as_sent(note["expr"]))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
                assert match is not None and variable["definition"] == match[0]
                yield Query(f"{name}: ${variable['name']}", f"count by ({match[2]}) ({match[1]})")


def watched() -> Iterator[Query]:
    """What the alert rules ask for."""
    for rule in RULES:
        yield Query(f"alerts: {rule['alert']}", rule["expr"])


def _as_sent(expression: str) -> str:
    for name, span in SPANS.items():
        expression = expression.replace(f"[{name}]", f"[{span}]")
    expression = expression.replace('"$variant"', '".*"')
    assert "$" not in expression, expression
    return expression


def _selected(node: Any, wanted: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Selectors under a node, with the labels that they and all above them name."""
    match node:
        case promql.VectorSelector():
            yield node.name, wanted | {matcher.name for matcher in node.matchers.matchers}
        case promql.MatrixSelector():
            yield from _selected(node.vector_selector, wanted)
        case promql.AggregateExpr():
            yield from _selected(node.expr, wanted | set(node.modifier.labels if node.modifier else ()))
        case promql.BinaryExpr():
            matching = node.modifier.matching if node.modifier else None
            wanted |= set(matching.labels if matching else ())
            yield from _selected(node.lhs, wanted)
            yield from _selected(node.rhs, wanted)
        case promql.Call():
            for argument in node.args:
                yield from _selected(argument, wanted)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selected(node.expr, wanted)
        case _:
            assert isinstance(node, promql.NumberLiteral | promql.StringLiteral), node
