"""What the dashboards and alert rules ask for, asked of a real Prometheus that scrapes the real stack."""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.configs.grafana.exported import ours
from tests.configs.grafana.prometheus import prometheus_at
from tests.configs.grafana.promql import FOLDER, RULES, Query, shown, watched
from tests.integration.conftest import LARGE, MIDDLE, SMALL, Stack, wait_for
from tests.integration.exposition import scraped, series_of

QUERIES = [*shown(), *watched()]
BY_PROMETHEUS = {"up", "ALERTS"}
MAY_BE_ABSENT = {
    "ray_groupqwen_route_moves_total": "a variant that is unsure; held against the stack in test_streams.py",
    "ray_groupqwen_energy_wh_total": "a machine whose draw can be read",
    "ray_node_gpus_utilization": "a card",
    "ray_node_gram_used": "a card",
    # Held against the stack in test_residency.py.
    **dict.fromkeys(
        (name for name in ours() if name.startswith("ray_groupqwen_residency_")), "variants that are swapped"
    ),
    # Held against the stack in test_finetuning_jobs.py.
    **dict.fromkeys(
        (
            f"ray_groupqwen_finetuning_{name}"
            for name in ("step", "steps", "loss", "validation_loss", "eta_seconds")
        ),
        "a job that trains",
    ),
}
"""Series that this profile on this machine need not have, and what they need."""


@pytest.fixture(scope="module")
def busy(stack: Stack) -> Iterator[Stack]:
    """The stack after everything has happened once that a series is there for."""
    made = stack.post("/keys", {"name": "of the metrics", "limits": {"usd_per_day": 1e-9}}).json()
    body = {"model": SMALL, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 2}
    headers = {"authorization": f"Bearer {made['secret']}", "cache-control": "no-store"}

    def refused() -> bool:
        told = httpx.post(stack.url + "/chat/completions", json=body, headers=headers, timeout=60)
        return told.status_code == 429

    wait_for(refused, 60, "a budget that is spent refuses nobody")
    for variant in (SMALL, MIDDLE, LARGE):
        stack.ask(f"Name three colours, {variant}.", model=variant, max_tokens=4, cache=None)
    wait_for(lambda: _outcome(stack) == "exact", 60, "an answer was not kept")
    yield stack
    httpx.delete(f"{stack.url}/keys/{made['id']}", headers=stack.headers)


@pytest.fixture(scope="module")
def there(busy: Stack) -> dict[str, set[str]]:
    """Every series that it gives, with its labels: of several scrapes, since on a machine that is busy Ray leaves
    one of its gauges out now and then."""
    wanted = {name for query in QUERIES for name in query.series} - BY_PROMETHEUS - MAY_BE_ABSENT.keys()
    seen: dict[str, set[str]] = {}

    def all_of_it() -> bool:
        for name, labels in scraped(busy).items():
            seen.setdefault(name, set()).update(labels)
        return wanted <= seen.keys()

    wait_for(all_of_it, 60, lambda: f"not there: {wanted - seen.keys()}")
    return seen


def _outcome(stack: Stack) -> str:
    """What the cache did for a question."""
    answer = stack.ask("In one word, what colour is grass?", model=MIDDLE, max_tokens=200, cache=None)
    return str(answer.headers.get("x-groupqwen-cache"))


@pytest.fixture(scope="module")
def prometheus(busy: Stack, there: dict[str, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL; it scrapes and evaluates as prometheus.yml says, only oftener."""
    folder = tmp_path_factory.mktemp("prometheus")
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "4s")
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{busy.settings.ports.metrics}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*probe.getsockname())
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                prometheus_at() / "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stderr=log,
        )
    url = f"http://{address}"
    try:
        wait_for(lambda: _scrapes(url) >= 3, 60, lambda: (folder / "log").read_text())
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _scrapes(url: str) -> int:
    """How often it has scraped the head."""
    try:
        if httpx.get(f"{url}/-/ready", timeout=30).status_code != 200:
            return 0
    except httpx.HTTPError:
        return 0
    found = ask(url, 'sum_over_time(up{job="groupqwen"}[5m])')
    return int(float(found[0]["value"][1])) if found else 0


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """An instant query's vector."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30)
    body = answer.json()
    assert body["status"] == "success", f"{query}: {body}"
    return list(body["data"]["result"])


def test_the_endpoint_gives_all_of_ours_and_serve_s(busy: Stack, there: dict[str, set[str]]) -> None:
    del there
    given: set[str] = set()
    wanted = ours().keys() - MAY_BE_ABSENT.keys()

    def all_of_it() -> bool:
        given.update(series_of(busy.get("/metrics").text))
        return wanted <= given

    wait_for(all_of_it, 60, lambda: f"not there: {wanted - given}")
    assert all(name.startswith(("ray_groupqwen_", "ray_serve_")) for name in given)


def test_gauges_stay_while_nothing_happens(busy: Stack) -> None:
    """Ray forgets within 4 s what is told once."""
    gauges = {name for name in ours() if not name.endswith(("_total", "_bucket", "_sum", "_count"))}
    seen: Counter[str] = Counter()
    for _ in range(12):
        seen.update(scraped(busy).keys())
        time.sleep(1)
    assert {name for name in gauges - MAY_BE_ABSENT.keys() if seen[name] < 8} == set(), seen


def test_every_series_that_is_asked_for_is_there_with_its_labels(there: dict[str, set[str]]) -> None:
    for query in QUERIES:
        for name, labels in query.series.items():
            if name not in BY_PROMETHEUS and (name in there or name not in MAY_BE_ABSENT):
                assert labels <= there[name], f"{query.where}: {name} has {sorted(there[name])}"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_prometheus_understands_every_query(prometheus: str, query: Query) -> None:
    ask(prometheus, query.expression)
    if query.where.startswith("alerts: ") or query.series.keys() & (MAY_BE_ABSENT.keys() | {"ALERTS"}):
        return  # Nothing is the answer where all is well, or where there is none of it.
    wait_for(lambda: bool(ask(prometheus, query.expression)), 60, "it shows nothing after traffic")


def test_prometheus_evaluates_every_rule(prometheus: str) -> None:
    def evaluated() -> list[dict[str, Any]]:
        groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"] if rule["health"] != "unknown"]

    wait_for(lambda: len(evaluated()) == len(RULES), 60, "not every rule was evaluated")
    assert [(rule["name"], rule.get("lastError")) for rule in evaluated() if rule["health"] != "ok"] == []
    said = [note for rule in evaluated() for alert in rule["alerts"] for note in alert["annotations"].values()]
    assert [note for note in said if "error expanding template" in note] == []


def test_the_target_is_named_as_the_rules_say(prometheus: str) -> None:
    (target,) = ask(prometheus, "up")
    assert target["metric"]["job"] == "groupqwen" and target["value"][1] == "1"
