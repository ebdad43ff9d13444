"""The end of it: what is killed comes back with everything, and `down` stops exactly what `up` has started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import httpx
import pytest

from groupqwen.stack.processes import marked
from tests.integration.conftest import ONE_OF_THREE, SMALL, Stack, wait_for

PROFILE = ("--profile", str(ONE_OF_THREE))


@pytest.fixture(scope="module")
def light(stack: Stack) -> Stack:
    """The stack with a profile that starts without loading a model."""
    stack.use(ONE_OF_THREE)
    return stack


def test_a_ray_that_dies_comes_back_with_the_application(light: Stack) -> None:
    """Nobody calls `up`; and no HAProxy of before goes on taking requests for nobody."""
    before = light.processes("raylet/raylet")[0]
    before.send_signal(signal.SIGKILL)
    wait_for(lambda: light.health().get("status") != "ok", 30, "Ray's death was not noticed")
    light.wait_until_well(180)
    assert light.processes("raylet/raylet")[0].pid != before.pid
    wait_for(lambda: len(light.processes("bin/haproxy")) == 1, 20, "an HAProxy of before goes on")
    assert light.ask("Are you back?", model=SMALL, max_tokens=3).status_code == 200


def test_up_recovers_after_everything_was_killed_and_loses_nothing(light: Stack) -> None:
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
    wait_for(lambda: asked in light.ledger_ids(), 15, "a row was lost")
    elsewhere = light.url.replace("127.0.0.1", "127.0.0.2")
    assert httpx.get(f"{elsewhere}/models", headers=light.headers).status_code == 200
    assert httpx.get(f"{elsewhere}/models").status_code == 401
    with pytest.raises(httpx.ConnectError):
        httpx.get(light.settings.dashboard.replace("127.0.0.1", "127.0.0.2"))


def test_down_stops_exactly_what_up_started(light: Stack) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        down = light.run_cli("down")
        assert down.returncode == 0, down.stderr
        assert marked(light.settings) == []
        assert stranger.poll() is None
        assert light.run_cli("down").stdout.strip() == "Nothing was running."
    finally:
        stranger.kill()
