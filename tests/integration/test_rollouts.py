"""A changed configuration under load: nobody notices, or nothing is touched."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from configs.catalog import MODELS
from configs.profile import PROFILES
from configs.routing import LEVELS
from tests.integration.conftest import LARGE, MIDDLE, PORT_OFFSET, RULES, SMALL, Stack, wait_for

REQUESTS_PER_SECOND = 20
CHANGED = ("Gateway", "Router", SMALL)
UNCHANGED = ("SemanticCache", "Classifier", "Ledger", MIDDLE, LARGE)
"""Deployments that know the profile, or the variant that changes in it; and those that do not."""
NO_ROLES = {"code": None, "translation": None}


def deploy_command(profile: str) -> list[str]:
    return ["up", "--port-offset", str(PORT_OFFSET), "--no-ask", "--profile", profile]


async def load(stack: Stack, over: asyncio.Event) -> Counter[str]:
    """Requests at a steady rate until `over`, and what became of them."""
    body = {"model": SMALL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    headers = {**stack.headers, "cache-control": "no-store"}
    ended: Counter[str] = Counter()
    running: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(120)) as session:

        async def ask() -> None:
            try:
                async with session.post(f"{stack.url}/chat/completions", json=body) as response:
                    text = await response.text()
                    ended["answered" if response.status == 200 else f"{response.status}: {text[:200]}"] += 1
            except aiohttp.ClientError as error:
                ended[repr(error)] += 1

        while not over.is_set():
            running.add(asyncio.create_task(ask()))
            await asyncio.sleep(1 / REQUESTS_PER_SECOND)
        await asyncio.gather(*running)
    return ended


def deploy(stack: Stack, *arguments: str) -> Any:
    """`groupqwen deploy` under load: what it said, and what became of the requests."""

    async def under_load() -> Any:
        over = asyncio.Event()
        asking = asyncio.create_task(load(stack, over))
        done = await asyncio.to_thread(stack.run_cli, "deploy", *arguments)
        over.set()
        return done, await asking

    return asyncio.run(under_load())


def served(name: str) -> str:
    """What the command line of a deployment's replicas holds."""
    return f"ServeReplica:groupqwen:{name}"


def test_a_rollout_under_load_fails_nobody_and_a_canary_takes_its_share_first(
    stack: Stack, tmp_path: Path
) -> None:
    profile = yaml.safe_load((PROFILES / "cpu.yaml").read_text())
    profile["variants"][SMALL]["context"] = 2048
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(profile))
    before = {name: stack.replica(name).pid for name in (*CHANGED, *UNCHANGED)}
    done, ended = deploy(stack, "--profile", str(path), "--canary", "50%", "--watch", "5")
    assert done.returncode == 0, done.stderr
    said = re.search(r"answered (\d+) requests and failed 0", done.stdout.replace("\n", " "))
    assert said is not None, done.stdout
    assert 0 < int(said[1]) < sum(ended.values())
    assert set(ended) == {"answered"}, ended
    assert ended["answered"] > 5 * REQUESTS_PER_SECOND
    after = {name: stack.replica(name).pid for name in before}
    assert {name for name in before if after[name] != before[name]} == set(CHANGED)
    assert stack.get(f"/models/{SMALL}").json()["context"] == 2048
    assert stack.get("/rollout").json() is None, "nothing of the canary is left"
    assert len(stack.processes(served(SMALL))) == 1


def test_a_model_that_fails_its_warm_up_leaves_the_old_one_serving(stack: Stack, tmp_path: Path) -> None:
    catalog = yaml.safe_load(MODELS.read_text())
    catalog["variants"][SMALL]["warm_up"]["expects"] = "Atlantis"
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(catalog))
    before = stack.replica(SMALL)
    done, ended = deploy(stack, "--catalog", str(path), "--canary", "50%", "--watch", "5")
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "failed its warm-up" in told and "Atlantis" in told
    assert "what served before serves again" in told
    assert set(ended) == {"answered"}, ended
    assert stack.replica(SMALL) == before, "it has not been touched"
    assert stack.health()["status"] == "ok"


def test_rules_change_without_a_restart(stack: Stack) -> None:
    """routing.yaml is no part of a replica: `deploy` brings it to those that run."""
    before = {process.pid for process in stack.processes("ServeReplica")}
    with stack.served_by(RULES.replace("aliases:", "aliases:\n  my-own-name: " + SMALL, 1)):
        answer = stack.ask("Hi", model="my-own-name", max_tokens=2)
    assert answer.status_code == 200
    assert answer.json()["metadata"]["variant"] == SMALL
    # (One that the last rollout replaced may have gone meanwhile.)
    assert {process.pid for process in stack.processes("ServeReplica")} <= before, "something was replaced"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"levels": {"trivial": "nobody"}}, "'nobody'"),
        ({"machine": {"memory_mb": 1000}}, "of 1000 MiB are there"),
        ({"variants": {"qwen3-vl": {}}, "levels": dict.fromkeys(LEVELS, "qwen3-vl"), **NO_ROLES}, "runs on cuda"),
    ],
)
def test_a_bad_profile_is_refused_before_anything_is_touched(
    stack: Stack, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    profile = {**yaml.safe_load((PROFILES / "cpu.yaml").read_text()), **change}
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(profile))
    names = (*CHANGED, *UNCHANGED)
    # What the last rollout replaced may still be about to go.
    wait_for(lambda: all(len(stack.processes(served(name))) == 1 for name in names), 90, "replicas stay behind")
    before = {name: stack.replica(name) for name in names}
    refused = stack.run_cli(*deploy_command(str(path)))
    assert refused.returncode == 1
    assert says in " ".join(refused.stderr.split())
    assert {name: stack.processes(served(name)) for name in names} == {name: [before[name]] for name in names}
    assert stack.health()["status"] == "ok"
