"""The alert rules: what they ask for is exported, what they say helps, and Prometheus itself takes them and fires
them when it should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.profile import Ports
from tests.configs.grafana.exported import exported
from tests.configs.grafana.prometheus import prometheus_at
from tests.configs.grafana.promql import FOLDER, GROUPS, RULES, Query, watched

CASES = Path(__file__).parent / "alerts_test.yaml"


@pytest.fixture(scope="session")
def promtool() -> str:
    return str(prometheus_at() / "promtool")


@pytest.mark.parametrize("query", watched(), ids=lambda query: query.where)
def test_they_ask_for_what_the_code_exports(query: Query) -> None:
    for name, labels in query.series.items():
        assert name in exported(), f"nothing exports {name}"
        assert labels <= exported()[name], f"{name} has no label {labels - exported()[name]}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] == {"service": "groupqwen", "severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    said = rule["annotations"]
    assert said.keys() == {"summary", "runbook", "see"}
    assert len(said["summary"]) > 20 and len(said["runbook"]) > 40
    words = re.findall(r"[A-Z][a-z]+", rule["alert"])
    assert "".join(words) == rule["alert"]
    assert said["see"] == f"docs/TROUBLESHOOTING.md#{'-'.join(words).lower()}"


def test_names_are_their_own() -> None:
    for names in ([rule["alert"] for rule in RULES], [group["name"] for group in GROUPS]):
        assert len(set(names)) == len(names)


def test_prometheus_takes_its_configuration_and_the_rules(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "config", str(FOLDER / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(RULES)} rules found" in done.stdout


def test_they_fire_when_they_should_and_not_before(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", str(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_is_seen_to_fire_and_to_be_silent() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["promql_expr_test"]]
    for rule in RULES:
        seen = set()
        for case in cases:
            match = re.search(r'alertname=~?"([^"]+)"', case["expr"])
            assert match is not None
            if re.fullmatch(match[1], rule["alert"]):
                fired = case.get("exp_samples", [])
                named = [
                    one for one in fired if "alertname=" not in one["labels"] or rule["alert"] in one["labels"]
                ]
                seen.add(bool(named))
        assert seen == {True, False}, rule["alert"]


def test_prometheus_scrapes_the_port_that_ray_exports_on() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    ports = Ports.model_validate({})
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{ports.metrics}"]
    assert job["job_name"] == "groupqwen"
    assert 9090 not in ports.model_dump().values()
