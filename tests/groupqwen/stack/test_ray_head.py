"""What stands between supervisord and Ray: it knows a second start, and what the first has left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rich.console import Console

from configs.home import Home
from groupqwen.stack import ray_head, revival
from groupqwen.stack.lifecycle import Choices
from groupqwen.stack.problem import StartProblem
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
    this, other = psutil.Process(), psutil.Process(os.getppid())
    assert ray_head.starts_before(own, this) is None
    assert [ray_head.starts_before(own, this) for _ in range(3)] == [1, 2, 3]
    assert ray_head.starts_before(own, other) is None, "another supervisord: `up` deploys"
    note = own.run / "ray-starts.json"
    noted = json.loads(note.read_text())
    note.write_text(json.dumps({**noted, "starts": [at - 7200 for at in noted["starts"]]}))
    assert ray_head.starts_before(own, other) == 0, "long ago, and still not the first"
    note.write_text("{")
    assert ray_head.starts_before(own, other) is None


def test_left_behind_is_what_has_no_place_under_supervisord(own: Home, orphan: int) -> None:
    child = subprocess.Popen(SLEEP, env={**os.environ, MARK: str(own.root)})
    stranger = subprocess.Popen(SLEEP)
    try:
        found = {process.pid for process in ray_head.left_behind(own, psutil.Process())}
        assert found == {orphan}
    finally:
        for process in (child, stranger):
            process.kill()
            process.wait()


@pytest.mark.parametrize(("before", "brought"), [(None, 0), (1, 1), (ray_head.MOST_AN_HOUR + 1, 0)])
def test_ray_takes_the_place_and_the_application_is_brought_back(
    own: Home, orphan: int, monkeypatch: pytest.MonkeyPatch, before: int | None, brought: int
) -> None:
    monkeypatch.setenv("GROUPQWEN_HOME", str(own.root))
    monkeypatch.setattr(sys, "argv", ["ray_head", "/opt/ray", "start", "--head"])
    monkeypatch.setattr(os, "getppid", os.getpid)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    back: list[Home] = []
    monkeypatch.setattr(ray_head, "bring_back", back.append)
    monkeypatch.setattr(ray_head, "starts_before", lambda *_: before)
    ray_head.main()
    assert became == [["/opt/ray", "start", "--head"]]
    assert len(back) == brought
    assert psutil.pid_exists(orphan) == (before is None), "what was left behind is gone, but at a first start"


def test_nothing_is_brought_back_where_nothing_has_served(own: Home) -> None:
    assert revival.revive(own, Console()) == "nothing has served here yet"
    (own.run / "choices.json").write_text(json.dumps(Choices(profile="of-someone-else.yaml").__dict__))
    assert revival.revive(own, Console()) == "nothing has served here yet"


def test_what_was_noted_is_deployed_unless_it_serves_already(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = {"applications": [{"name": "groupqwen"}]}
    (own.run / "choices.json").write_text(json.dumps(Choices().__dict__))
    (own.run / "serve_config.yaml").write_text(yaml.safe_dump(noted))
    found: dict[str, Any] = {"applications": {}}
    deployed: list[Any] = []
    monkeypatch.setattr(revival, "wait_for_ray", lambda *_: True)
    monkeypatch.setattr(revival, "application", lambda *_: found)
    monkeypatch.setattr(revival, "deploy", lambda _, __, config: deployed.append(config))
    monkeypatch.setattr(revival, "wait_until_ready", lambda *_: None)
    assert revival.revive(own, Console()) == "it serves again"
    assert deployed == [noted]
    found["applications"]["groupqwen"] = {"status": "RUNNING"}
    assert revival.revive(own, Console()) == "it serves already"
    assert deployed == [noted]


def test_it_is_tried_a_few_times(
    own: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> str:
        raise StartProblem("Ray does not answer")

    monkeypatch.setenv("GROUPQWEN_HOME", str(own.root))
    monkeypatch.setattr(revival, "revive", fails)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    revival.main()
    said = capsys.readouterr().out
    assert said.count("not back yet: Ray does not answer") == revival.ATTEMPTS
    assert "up.sh" in said
