"""What stands between supervisord and Ray: it knows a second start, and what the first has left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.home import Home
from groupqwen.stack import ray_head
from groupqwen.stack.settings import MARK

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture()
def own(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.make()
    return made


@pytest.fixture()
def orphan(own: Home) -> Iterator[int]:
    """The process id of one that was started from the home, and whose parent is gone. (-3: to nowhere, so that
    nobody waits for its output.)"""
    start = f"import subprocess, sys; print(subprocess.Popen({SLEEP!r}, stdout=-3, stderr=-3).pid)"
    environment = {**os.environ, MARK: str(own.root)}
    done = subprocess.run(
        [sys.executable, "-c", start], env=environment, capture_output=True, text=True, check=True
    )
    yield int(done.stdout)
    subprocess.run(["kill", "-9", done.stdout.strip()], check=False, capture_output=True)


def test_a_second_start_by_the_same_supervisord_is_known(own: Home) -> None:
    assert not ray_head.started_again(own, 41)
    assert ray_head.started_again(own, 41)
    assert not ray_head.started_again(own, 42), "another supervisord: `up` deploys"


def test_left_behind_is_what_has_no_place_under_supervisord(own: Home, orphan: int) -> None:
    child = subprocess.Popen(SLEEP, env={**os.environ, MARK: str(own.root)})
    stranger = subprocess.Popen(SLEEP)
    try:
        found = {process.pid for process in ray_head.left_behind(own, os.getpid())}
        assert found == {orphan}
    finally:
        for process in (child, stranger):
            process.kill()
            process.wait()


def test_the_application_is_deployed_again_and_ray_takes_the_place(
    own: Home, orphan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(own.root))
    monkeypatch.setattr(sys, "argv", ["ray_head", "/opt/ray", "start", "--head"])
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    deployed: list[Home] = []
    monkeypatch.setattr(ray_head, "deploy_again", deployed.append)
    ray_head.main()
    assert (became, deployed) == ([["/opt/ray", "start", "--head"]], [])
    monkeypatch.setattr(os, "getppid", os.getpid)
    own.run.joinpath("ray-started-by").write_text(str(os.getpid()))
    ray_head.main()
    assert [home.root for home in deployed] == [own.root]
    assert not Path(f"/proc/{orphan}/cmdline").is_file() or not Path(f"/proc/{orphan}/cmdline").read_bytes()
