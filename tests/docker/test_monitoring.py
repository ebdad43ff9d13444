"""Prometheus, Grafana and Ray's dashboard without them: what they are given fits together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from configs.profile import Ports

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PORTS = Ports.model_validate({})


def mounts(service: str) -> dict[str, Path]:
    """Folder inside → folder here."""
    volumes = [volume.split(":") for volume in SERVICES[service]["volumes"]]
    return {inside: (DOCKER / source).resolve() for source, inside, *_ in volumes if source.startswith(".")}


def test_prometheus_reads_its_configuration_and_the_rules() -> None:
    (inside, folder), *_ = mounts("prometheus").items()
    (given,) = [word for word in SERVICES["prometheus"]["command"] if word.startswith("--config.file=")]
    assert given == f"--config.file={inside}/prometheus.yml"
    # Their paths are from the configuration's folder.
    rules = yaml.safe_load((folder / "prometheus.yml").read_text())["rule_files"]
    assert [(folder / name).is_file() for name in rules] == [True]
    assert SERVICES["prometheus"]["network_mode"] == "service:head"


def test_grafana_is_provisioned_with_what_is_mounted() -> None:
    inside, environment = mounts("grafana"), SERVICES["grafana"]["environment"]
    provisioning = inside["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "$GROUPQWEN_PROMETHEUS"
    assert environment["GROUPQWEN_PROMETHEUS"] == "http://head:9090"
    assert source["jsonData"]["timeInterval"] == "15s"
    (provider,) = yaml.safe_load((provisioning / "dashboards/groupqwen.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "$GROUPQWEN_DASHBOARDS"
    folder = environment["GROUPQWEN_DASHBOARDS"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == folder and (inside[folder] / home.name).is_file()
    for path in inside[folder].glob("*.json"):
        first = json.loads(path.read_text())["templating"]["list"][0]
        assert first["current"] == {"text": source["name"], "value": source["uid"]}


def test_no_two_dashboards_have_one_uid() -> None:
    """Grafana would provision neither."""
    paths = list((ROOT / "configs" / "grafana" / "dashboards").rglob("*.json"))
    uids = [json.loads(path.read_text())["uid"] for path in paths]
    assert len(set(uids)) == len(uids) == 5


def test_ray_s_dashboard_finds_both_and_shows_ours() -> None:
    environment = SERVICES["head"]["environment"]
    # Prometheus has the head's loopback, Grafana a network of the head's; the browser has neither.
    assert environment["RAY_PROMETHEUS_HOST"] == "http://127.0.0.1:9090"
    assert environment["RAY_GRAFANA_HOST"] == "http://grafana:3000"
    assert set(SERVICES["grafana"]["networks"]) <= set(SERVICES["head"]["networks"])
    (port,) = SERVICES["grafana"]["ports"]
    assert environment["RAY_GRAFANA_IFRAME_HOST"] == f"http://{port.removesuffix(':3000')}"
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ALLOW_EMBEDDING"] == "true"
    ours = json.loads((ROOT / "configs/grafana/dashboards/groupqwen.json").read_text())
    assert environment["RAY_GRAFANA_DATA_DASHBOARD_UID"] == ours["uid"]


def test_ray_s_dashboard_is_handed_on() -> None:
    service = SERVICES["ray-dashboard"]
    assert service["network_mode"] == "service:head"
    handed = COMPOSE["configs"][service["configs"][0]["source"]]["content"]
    assert f"server ray 127.0.0.1:{PORTS.dashboard}" in handed
    (bound,) = re.findall(r"bind :(\d+)", handed)
    assert SERVICES["head"]["ports"][1].endswith(f":{bound}")
    assert int(bound) not in PORTS.model_dump().values()
