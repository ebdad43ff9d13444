"""Every series that can be there, and its labels: read from the code that exports it, ours and Ray's."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

from ray.dashboard import consts

from tests.configs.grafana.promql import watched

ROOT = Path(__file__).parents[3]
SUFFIXES = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}


@cache
def exported() -> dict[str, set[str]]:
    """Through Ray's metrics agent, and what Prometheus itself adds."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    ray = Path(spec.origin).parent
    named = {label for query in watched() for labels in query.series.values() for label in labels}
    return {
        **series_in(ray / "serve" / "_private"),
        **series_in(ray / "dashboard" / "modules" / "reporter"),
        **ours(),
        "up": {"job"},
        "ALERTS": {"alertname", "alertstate", "service", "severity", *named},
    }


@cache
def ours() -> dict[str, set[str]]:
    """What GroupQwen exports."""
    return {**series_in(ROOT / "deployments"), **series_in(ROOT / "serve_app")}


def series_in(folder: Path) -> dict[str, set[str]]:
    """Series that the code under `folder` exports through Ray → their labels."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        source = path.read_text()
        if not re.search(rf"\b({'|'.join(SUFFIXES)})\(", source):
            continue
        for call in ast.walk(ast.parse(source)):
            if isinstance(call, ast.Call):
                kind = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                name = text_of(call.args[0]) if call.args else None
                if kind in SUFFIXES and name is not None:
                    for suffix in SUFFIXES[kind]:
                        found[f"ray_{name}{suffix}"] = labels_of(call) | ({"le"} if suffix == "_bucket" else set())
    return found


def text_of(node: ast.expr) -> str | None:
    """A literal string. In the gaps of those that Serve puts together stands the protocol."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value if isinstance(part, ast.Constant) else "http" for part in parts]
    literal = isinstance(node, ast.JoinedStr | ast.Constant) and all(isinstance(text, str) for text in texts)
    return "".join(map(str, texts)) if literal else None


def labels_of(call: ast.Call) -> set[str]:
    """What stands in the tuples among a call's arguments, or in the list of Ray's that one names. Serve adds
    whose replica it is to what a deployment exports."""
    labels = {"application", "deployment", "replica"}
    for value in (*call.args, *(keyword.value for keyword in call.keywords)):
        if isinstance(value, ast.Tuple):
            labels |= {str(text_of(element)) for element in value.elts}
        elif isinstance(value, ast.Name) and value.id.endswith("_TAG_KEYS"):
            labels |= set(getattr(consts, value.id))
    return labels
