"""Prometheus and Grafana without them: what they are given fits together, and asks for what the code exports."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.profile import Ports

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/groupqwen.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
PORTS = Ports.model_validate({})


def test_prometheus_scrapes_the_port_that_ray_exports_on() -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{PORTS.metrics}"]
    assert SERVICES["prometheus"]["network_mode"] == "service:head"
    assert 9090 not in PORTS.model_dump().values()


def test_grafana_is_provisioned_with_what_is_mounted() -> None:
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    inside = {target: DOCKER / source for source, target in mounts.items() if source.startswith(".")}
    provisioning = inside["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://head:9090"
    assert source["jsonData"]["timeInterval"] == "15s"
    (provider,) = yaml.safe_load((provisioning / "dashboards/groupqwen.yaml").read_text())["providers"]
    folder = inside[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file() and Path(home).parent == Path(provider["options"]["path"])
    for panel in DASHBOARD["panels"]:
        assert {panel["datasource"]["uid"], *(t["datasource"]["uid"] for t in panel["targets"])} == {source["uid"]}


def test_panels_have_room_of_their_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


SUFFIXES = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}


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
                    found |= {f"ray_{name}{suffix}": labels_of(call) for suffix in SUFFIXES[kind]}
    return found


def text_of(node: ast.expr) -> str | None:
    """A literal string. In the gaps of those that Serve puts together stands the protocol."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value if isinstance(part, ast.Constant) else "http" for part in parts]
    literal = isinstance(node, ast.JoinedStr | ast.Constant) and all(isinstance(text, str) for text in texts)
    return "".join(map(str, texts)) if literal else None


def labels_of(call: ast.Call) -> set[str]:
    """What stands in the tuples among a call's arguments."""
    tuples = [value for value in (*call.args, *(k.value for k in call.keywords)) if isinstance(value, ast.Tuple)]
    return {str(text_of(element)) for one in tuples for element in one.elts}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    serve = Path(spec.origin).parent / "serve" / "_private"
    return {**series_in(serve), **series_in(ROOT / "deployments"), **series_in(ROOT / "serve_app")}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_asks_for_what_the_code_exports(expression: str, exported: dict[str, set[str]]) -> None:
    named = re.findall(r"\bray_\w+", expression)
    assert named
    for metric in named:
        assert metric in exported, f"nothing exports {metric}"
        asked = set(re.findall(r"(\w+)=~?\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            asked |= {label.strip() for label in group.split(",")}
        if metric.endswith("_bucket"):
            assert "le" in asked
            asked.remove("le")
        assert asked <= exported[metric], f"{metric} has no label {asked - exported[metric]}"


def test_the_dashboard_shows_every_series_of_ours() -> None:
    ours = series_in(ROOT / "deployments")
    shown = " ".join(EXPRESSIONS)
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in ours if "groupqwen" in name}
    assert len(families) >= 9
    assert {family for family in families if family not in shown} == set()
