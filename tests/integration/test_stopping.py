"""The end of it: what is killed comes back with everything, and `down` stops exactly what `up` has started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from groupqwen.stack.processes import marked
from tests.integration.conftest import NO_END, ONE_OF_THREE, SMALL, Stack, wait_for
from tests.integration.training import LONG, about, begin, cancel, wait_for_step, written

PROFILE = ("--profile", str(ONE_OF_THREE))


@pytest.fixture(scope="module")
def light(stack: Stack) -> Stack:
    """The stack with a profile that starts without loading a model."""
    stack.use(ONE_OF_THREE)
    return stack


@pytest.fixture(scope="module")
def job(light: Stack) -> str:
    """A fine-tuning job (a stand-in's) that runs all the time."""
    begun = begin(light, **LONG)
    wait_for_step(light, begun, 2)
    return begun


def test_a_ray_that_dies_comes_back_with_the_application(light: Stack, job: str) -> None:
    """Nobody calls `up`; no HAProxy of before goes on taking requests for nobody; a job that trained goes on."""
    reached = about(light, job)["progress"]["checkpoint"]
    before = light.processes("raylet/raylet")[0]
    before.send_signal(signal.SIGKILL)
    wait_for(lambda: light.health().get("status") != "ok", 60, "Ray's death was not noticed")
    light.wait_until_well(180)
    assert light.processes("raylet/raylet")[0].pid != before.pid
    wait_for(lambda: len(light.processes("bin/haproxy")) == 1, 60, "an HAProxy of before goes on")
    assert light.ask("Are you back?", model=SMALL, max_tokens=3).status_code == 200
    wait_for_step(light, job, reached + 2)


def test_up_recovers_after_everything_was_killed_and_loses_nothing(light: Stack, job: str) -> None:
    """And listens on a second address from now on, which is another one of loopback here."""
    asked = light.ask("Remember this question.", model=SMALL, max_tokens=3).headers["x-request-id"]
    supervisors = [p for p in light.processes("supervisord") if "groupqwen.cli" not in " ".join(p.cmdline())]
    assert supervisors
    for process in [*supervisors, *light.processes("redis-server"), *light.processes("gcs_server")]:
        process.send_signal(signal.SIGKILL)
    done = light.up(*PROFILE, "--listen", "127.0.0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    light.wait_until_well()
    assert light.ask("Are you there?", model=SMALL, max_tokens=3).status_code == 200
    assert light.key == json.loads(light.settings.home.credentials.read_text())["api_key"]
    wait_for(lambda: asked in light.ledger_ids(), 60, "a row was lost")
    reached = about(light, job)["progress"]["step"]
    wait_for_step(light, job, reached + 2)
    assert about(light, job)["attempt"] >= 3
    cancel(light, job)
    steps = [event.data["step"] for event in written(light, job) if event.kind == "progress"]
    assert steps.count(1) == 1, "it went on from its checkpoints"
    elsewhere = light.url.replace("127.0.0.1", "127.0.0.2")
    assert httpx.get(f"{elsewhere}/models", headers=light.headers).status_code == 200
    assert httpx.get(f"{elsewhere}/models").status_code == 401
    with pytest.raises(httpx.ConnectError):
        httpx.get(light.settings.dashboard.replace("127.0.0.1", "127.0.0.2"))


def test_nothing_new_is_taken_on_while_it_drains_and_again_afterwards(light: Stack) -> None:
    assert light.post("/drain", {"seconds": 0}).json() == {"draining": True, "under_way": 0}
    refused = light.ask("Too late?", model=SMALL, max_tokens=2)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert int(refused.headers["retry-after"]) > 0
    health = light.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["ready"]) == (503, "draining", False)
    assert light.post("/drain", {"on": False}).json()["draining"] is False
    assert light.ask("And now?", model=SMALL, max_tokens=2).status_code == 200


def test_what_is_under_way_may_end_before_all_is_stopped(light: Stack) -> None:
    """And what is stopped is exactly what `up` has started."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        stream = light.client().chat.completions.create(
            model=SMALL,
            messages=[{"role": "user", "content": "Tell me a very long story about the sea."}],
            stream=True,
            max_tokens=1500,
            logit_bias=NO_END,
            extra_headers={"cache-control": "no-store"},
        )
        chunks = iter(stream)
        next(chunks)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(light.run_cli, "down", "--drain", "300")
            wait_for(lambda: light.health().get("status") == "draining", 60, "it does not drain")
            refused = light.ask("Too late?", model=SMALL, max_tokens=2)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            last = list(chunks)[-1]
            down = stopping.result()
        assert last.choices[0].finish_reason in ("stop", "length"), "it was cut off"
        assert down.returncode == 0, down.stderr
        assert "cut off" not in down.stdout
        assert marked(light.settings) == []
        assert stranger.poll() is None
        assert light.run_cli("down").stdout.strip() == "Nothing was running."
    finally:
        stranger.kill()
