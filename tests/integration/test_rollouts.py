"""A changed configuration under load: nobody notices, or nothing is touched."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
import yaml

from configs.profile import PROFILES
from configs.routing import LEVELS
from groupqwen.stack.lifecycle import remembered
from tests.integration.conftest import PORT_OFFSET, ROOT, SMALL, Stack

REQUESTS_PER_SECOND = 20
NO_ROLES = {"code": None, "translation": None}
OTHER = ROOT / "tests" / "profiles" / "one-of-three.yaml"


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


def test_a_rollout_under_load_fails_no_request(stack: Stack) -> None:
    now = remembered(stack.settings.home)
    if now is None or now.profile == "cpu":
        assert stack.run_cli(*deploy_command(str(OTHER))).returncode == 0
    before = {process.pid for process in stack.processes("ServeReplica")}

    async def roll_out() -> Counter[str]:
        over = asyncio.Event()
        asking = asyncio.create_task(load(stack, over))
        await asyncio.sleep(2)
        done = await asyncio.to_thread(stack.run_cli, *deploy_command("cpu"))
        await asyncio.sleep(2)
        over.set()
        ended = await asking
        assert done.returncode == 0, done.stderr
        return ended

    ended = asyncio.run(roll_out())
    assert set(ended) == {"answered"}, ended
    assert ended["answered"] > 5 * REQUESTS_PER_SECOND
    after = {process.pid for process in stack.processes("ServeReplica")}
    assert not before & after, "some replica was not replaced"
    stack.wait_until_well()


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
    before = {process.pid: process.create_time() for process in stack.processes("ServeReplica")}
    started = time.monotonic()
    refused = stack.run_cli(*deploy_command(str(path)))
    assert refused.returncode == 1
    assert says in refused.stderr.replace("\n", " ")
    assert time.monotonic() - started < 60
    assert {process.pid: process.create_time() for process in stack.processes("ServeReplica")} == before
    assert stack.health() == "ok"
