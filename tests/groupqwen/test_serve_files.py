from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict
from ray.serve.schema import ServeDeploySchema

from configs.catalog import load_catalog
from configs.placement import HEAD
from configs.planner import make_plans
from configs.profile import load_profile, profile_names
from groupqwen.serve_files import ROOT, SERVE, kuberay, production_config, serve_files
from serve_app.app import AppArgs

CATALOG = load_catalog()


def test_files_are_current() -> None:
    made = serve_files(CATALOG)
    stale = [path.name for path, text in made.items() if not path.is_file() or path.read_text() != text]
    assert stale == [], "run `groupqwen plan --write`"
    assert {path.name for path in SERVE.glob("*.yaml")} == {path.name for path in made if path.parent == SERVE}


@pytest.mark.parametrize("name", profile_names())
def test_serve_takes_each_and_each_reserves_what_the_plan_says(name: str) -> None:
    profile = load_profile(name, CATALOG)
    taken = ServeDeploySchema.model_validate(yaml.safe_load((SERVE / f"{name}.yaml").read_text()))
    assert taken.http_options.host == "127.0.0.1"
    assert AppArgs.model_validate(taken.applications[0].args).profile == name
    for plan, application in zip(make_plans(profile, CATALOG, 1_000_000), taken.applications, strict=True):
        given = {one.name: one.ray_actor_options for one in application.deployments}
        for row in plan.rows:
            if row.engine == "llama.cpp":
                options = given.pop(row.variant)
                assert options.num_gpus == plan.num_gpus(row)  # type: ignore[union-attr]
        assert given == {}


def test_the_production_file_is_the_reference_machines() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert config == production_config(load_profile("rtx5090", CATALOG), CATALOG)
    assert [one["name"] for one in config["applications"]] == ["groupqwen", "groupqwen-macbook"]
    shares = {
        one["name"]: one["ray_actor_options"]["num_gpus"] for one in config["applications"][0]["deployments"]
    }
    assert 0.1 < shares["qwen3-8b"] < 0.5, "a part of the card"


def test_no_file_holds_a_secret_or_a_path_of_one_machine() -> None:
    for path in (*SERVE.glob("*.yaml"), ROOT / "serve_config.yaml"):
        text = path.read_text()
        assert "/home/" not in text and str(ROOT) not in text
        assert "password" not in text.lower()


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Group(Strict):
    rayStartParams: dict[str, str]  # noqa: N815
    template: dict[str, Any]


class Cluster(Strict):
    rayVersion: str  # noqa: N815
    headGroupSpec: Group  # noqa: N815


class Spec(Strict):
    serveConfigV2: str  # noqa: N815
    rayClusterConfig: Cluster  # noqa: N815


class RayService(Strict):
    """The fields of KubeRay's custom resource (ray.io/v1) that are used here."""

    apiVersion: str  # noqa: N815
    kind: str
    metadata: dict[str, str]
    spec: Spec


@pytest.fixture
def service() -> RayService:
    return RayService.model_validate(yaml.safe_load((SERVE / "kuberay.yaml").read_text()))


def test_kuberay_gets_a_service_whose_pod_kubernetes_takes(service: RayService) -> None:
    assert (service.apiVersion, service.kind) == ("ray.io/v1", "RayService")
    template = service.spec.rayClusterConfig.headGroupSpec.template
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {"name": "head", **pod["metadata"]}
    kubernetes_validate.validate(pod, "1.34", strict=True)
    pod["spec"]["containers"][0]["resuorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_kubernetes_serves_the_same_plan(service: RayService) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(service.spec.serveConfigV2))
    profile = load_profile("h200", CATALOG)
    plain = production_config(profile, CATALOG)
    assert config.applications == ServeDeploySchema.model_validate(plain).applications
    parameters = service.spec.rayClusterConfig.headGroupSpec.rayStartParams
    assert HEAD in json.loads(json.loads(parameters["resources"]))
    mounted = kuberay(profile, CATALOG)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    for container in (*mounted["containers"], *mounted["initContainers"]):
        names = {one["name"]: one for one in container["env"]}
        assert "valueFrom" in names["GROUPQWEN_REDIS_URL"], "secrets come from secrets"
    assert "GROUPQWEN_API_KEY" not in {one["name"] for one in mounted["containers"][0]["env"]}
