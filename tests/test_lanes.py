"""Lanes of tests: each module has one, what fails is known, and Ctrl-C ends them."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from tests import lanes as lanes_module
from tests.integration.conftest import IN_ORDER
from tests.lanes import INTEGRATION, SECOND_STACK, Lane, lanes, prepare_second, total

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "DATA", tmp_path / "data")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # (For coverage's plugin, tests/coverage_saver.py.)


def test_modules_of_the_second_stack_are_there_and_hold_all_that_change_the_profile() -> None:
    assert all((ROOT / INTEGRATION / f"test_{name}.py").is_file() for name in SECOND_STACK)
    assert {f"test_{name}" for name in SECOND_STACK} >= set(IN_ORDER)


@pytest.mark.parametrize(("memory_mb", "names"), [(8000, "first unit"), (32_000, "first second unit")])
def test_a_small_machine_has_one_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_mb: int, names: str
) -> None:
    class Memory:
        total = memory_mb * 2**20

    monkeypatch.setattr(lanes_module, "virtual_memory", Memory)
    found = lanes(tmp_path / "home", 1000)
    assert " ".join(lane.name for lane in found) == names
    own = [lane.environment.get("GROUPQWEN_TEST_PORT_OFFSET") for lane in found]
    assert own == ([None, None] if len(found) == 2 else [None, "1200", None])
    measured = [lane.name for lane in found if "--cov" in lane.commands[-1]]
    assert measured == ["first", "unit"]


def test_the_second_home_shares_the_weights(tmp_path: Path) -> None:
    first = tmp_path / "home"
    (first / "redis" / "bin").mkdir(parents=True)
    (first / "redis" / "bin" / "redis-server").touch()
    for _ in range(2):
        other = prepare_second(first)
    assert (other / "models").resolve() == first / "models"
    assert (other / "redis" / "bin" / "redis-server").is_file()


def test_a_lane_ends_with_the_first_command_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    said = ("-c", "import os; print('=== 2 passed in', os.environ['OWN'] + 's ===')")
    fails = ("-c", "print('FAILED tests/a.py::b - no'); raise SystemExit(3)")
    lane = Lane("one", [said, fails, said], {"OWN": "1.5"})
    lane.run()
    assert lane.failed == fails
    assert lane.told == ["=== 2 passed in 1.5s ===", "FAILED tests/a.py::b - no"]
    assert capfd.readouterr().out.splitlines() == [f"one   │ {line}" for line in lane.told]


def test_what_is_stopped_begins_nothing_more() -> None:
    waits = ("-c", "import time; print('here', flush=True); time.sleep(60)")
    lane = Lane("one", [waits, waits])
    running = threading.Thread(target=lane.run)
    running.start()
    while lane.process is None:
        time.sleep(0.01)
    lane.stop(signal.SIGINT)
    running.join(30)
    assert not running.is_alive() and lane.failed == waits


def test_what_became_of_all_is_added_up() -> None:
    told = [
        "===== 3 passed, 1 skipped in 2.00s =====",
        "SKIPPED [1] tests/a.py:1: 7 passed by",
        "= 1 failed, 2 passed, 1 error in 9.00s =",
    ]
    assert total(told) == "5 passed, 1 skipped, 1 failed, 1 error"
    assert total([]) == "no tests"
