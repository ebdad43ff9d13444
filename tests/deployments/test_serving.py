from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ray.serve._private import application_state, deploy_utils

from configs.catalog import load_catalog
from configs.profile import load_profile
from deployments.serving import Graph, deployment, fingerprint


@dataclass
class Start:
    folder: Path
    sizes: dict[str, int]


class Spec(BaseModel):
    names: frozenset[str]


def test_the_same_values_have_the_same_fingerprint_in_every_process() -> None:
    code = (
        "from configs.catalog import load_catalog; from configs.profile import load_profile;"
        "from deployments.serving import fingerprint;"
        "print(fingerprint([load_catalog(), load_profile('rtx5090')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint([load_catalog(), load_profile("rtx5090")])


@pytest.mark.parametrize(
    "other",
    [
        [Start(Path("b"), {"x": 1}), "text", 1.5, None],
        [Start(Path("a"), {"x": 2}), "text", 1.5, None],
        [Start(Path("a"), {"x": 1}), "tex", 1.5, None],
        [Start(Path("a"), {"x": 1}), "text", 1.5],
        [Start(Path("a"), {"x": 1}), "text", "1.5", None],
    ],
)
def test_another_value_has_another(other: list[Any]) -> None:
    assert fingerprint(other) != fingerprint([Start(Path("a"), {"x": 1}), "text", 1.5, None])


def test_what_has_no_fingerprint_is_refused_rather_than_changed_unnoticed() -> None:
    with pytest.raises(TypeError, match="object has no fingerprint"):
        fingerprint([object()])
    with pytest.raises(TypeError, match="set has no fingerprint"):
        fingerprint({"names": {"a"}})


@deployment
class Part:
    def __init__(self, *made_with: Any) -> None:
        pass


def test_serve_is_told_a_version_for_each_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str] = {}
    # (Serve's own function would start Ray.)
    monkeypatch.setattr(deploy_utils, "get_deploy_args", lambda name, version: told.update({name: version}))
    monkeypatch.setattr(application_state, "get_deploy_args", None)

    def versions(build: str, value: int) -> dict[str, str]:
        graph = Graph(build)
        inner = graph.bind(Part, {"name": "inner"}, value)
        graph.bind(Part, {"name": "outer"}, inner, {"a": 1})
        for name in ("inner", "outer", "unknown"):
            application_state.get_deploy_args(name=name, version="the application's")
        return dict(told)

    first = versions("code", 1)
    assert first["unknown"] == "the application's"
    assert versions("code", 1) == first
    other = versions("code", 2)
    assert other["inner"] != first["inner"]
    assert other["outer"] == first["outer"], "a handle to what has changed has not changed"
    assert versions("other code", 1)["outer"] != first["outer"]
