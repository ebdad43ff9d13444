from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from pydantic import BaseModel
from ray.serve import Application
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.deploy_utils import get_deploy_args

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
    # (A job's id is all that it would start Ray for.)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))

    def told(node: Application) -> str:
        """What Serve hands to its controller, which reads it again."""
        config = copy.deepcopy(node._bound_deployment)  # As Serve does when it builds an application.
        handed = get_deploy_args(
            name=config.name,
            replica_config=config._replica_config,
            deployment_config=config._deployment_config,
            version="the application's",
        )
        return str(DeploymentConfig.from_proto_bytes(handed["deployment_config_proto_bytes"]).version)

    def versions(build: str, value: int) -> tuple[str, str]:
        graph = Graph(build)
        inner = graph.bind(Part, {"name": "inner"}, value)
        outer = graph.bind(Part, {"name": "outer", "user_config": {"a": value}}, inner, {"a": 1})
        return told(inner), told(outer)

    assert told(Part.bind()) == "the application's"
    first = versions("code", 1)
    assert versions("code", 1) == first
    other = versions("code", 2)
    assert other[0] != first[0]
    assert other[1] == first[1], "neither a handle to what has changed nor user_config replaces a replica"
    assert versions("other code", 1)[1] != first[1]
