from __future__ import annotations

import json
import platform
import socket
from pathlib import Path

import pytest
import ray

from configs.home import Home
from configs.profile import Ports
from groupqwen import join
from groupqwen.stack.problem import StartProblem


def test_versions_must_be_the_same() -> None:
    mine = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    join.check_versions(mine, "head:6380")
    with pytest.raises(StartProblem, match=r"Ray is .* here and 2\.59\.0 on head:6380"):
        join.check_versions({**mine, "ray_version": "2.59.0"}, "head:6380")
    with pytest.raises(StartProblem, match=r"Python is .* here and 3\.12\.1 on head:6380.*GROUPQWEN_PYTHON"):
        join.check_versions({**mine, "python_version": "3.12.1"}, "head:6380")
    with pytest.raises(StartProblem):
        join.check_versions({}, "head:6380")


def test_a_head_that_is_not_there_is_told_with_what_to_look_at() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(StartProblem, match=r"up.sh --interface 127.0.0.1.*Tailscale"):
        join.head_versions("127.0.0.1", port, {})


@pytest.mark.parametrize(("given", "address"), [("box", ("box", 6380)), ("100.64.0.1:7380", ("100.64.0.1", 7380))])
def test_an_address_may_name_its_port(given: str, address: tuple[str, int]) -> None:
    assert join._address(given, 6380) == address


@pytest.mark.parametrize("given", ["", ":1", "box:x", "box:"])
def test_what_is_no_address_is_refused(given: str) -> None:
    if given == "box:":
        assert join._address(given, 6380) == ("box", 6380)
        return
    with pytest.raises(StartProblem, match="is no address"):
        join._address(given, 6380)


def test_a_token_is_asked_for_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    with pytest.raises(StartProblem, match="groupqwen invite"):
        join._remember_token(home, None)
    join._remember_token(home, " abc\n")
    join._remember_token(home, None)
    assert (home.run / "ray-token").read_text() == "abc"
    assert (home.run / "ray-token").stat().st_mode & 0o777 == 0o600


def test_nothing_lands_on_a_node_that_was_not_sent_there() -> None:
    command = join.ray_command("h:1", "127.0.0.1", "macbook", Ports.model_validate({}))
    options = dict(word.removeprefix("--").split("=", 1) for word in command if "=" in word)
    assert options["num-cpus"] == "0"
    assert json.loads(options["resources"])["groupqwen_macbook"] > 1000
    assert options["node-ip-address"] == "127.0.0.1"
    assert "groupqwen.loopback_node" in command, "Ray's own command takes no second node on loopback"
    assert "groupqwen.loopback_node" not in join.ray_command("h:1", "0.0.0.0", "macbook", Ports.model_validate({}))


def test_the_address_that_reaches_loopback_is_loopback() -> None:
    assert join.own_address("127.0.0.1", 1) == "127.0.0.1"
