"""What runs in a process of its own is stopped where it takes too much, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from train.publish.children import Limits, call, limits_for
from train.publish.errors import ExportError

HERE = __name__
WIDE = Limits(memory_mb=2000, seconds=60)
ROOT = Path(__file__).parents[3]


def double(number: int) -> dict[str, Any]:
    return {"doubled": 2 * number, "process": os.getpid()}


def environment() -> dict[str, Any]:
    return dict(os.environ)


def refuse(why: str) -> dict[str, Any]:
    raise ExportError(why)


def die(how: int) -> dict[str, Any]:
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), how)
    return {}


def break_down() -> dict[str, Any]:
    raise ZeroDivisionError("nobody expected this")


def swell() -> dict[str, Any]:
    kept = []
    while True:
        kept.append(b"x" * (20 << 20))
        time.sleep(0.02)


def hang(note: str) -> dict[str, Any]:
    below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note).write_text(str(below.pid))
    time.sleep(600)
    return {}


def where() -> dict[str, Any]:
    import colours  # type: ignore[import-not-found]

    return {"red": colours.RED}


def wait(note: str) -> dict[str, Any]:
    made = Path(f"{note}.new")
    made.write_text(str(os.getpid()))
    made.rename(note)
    time.sleep(120)
    return {}


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_function_is_called_elsewhere() -> None:
    said = call(f"{HERE}:double", {"number": 21}, WIDE, (ROOT,))
    assert said["doubled"] == 42
    assert said["process"] != os.getpid()


def test_it_inherits_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPQWEN_JUDGE_KEY", "secret")
    said = call(f"{HERE}:environment", {}, WIDE, (ROOT,))
    assert "PATH" in said and "GROUPQWEN_JUDGE_KEY" not in said


def test_a_folder_can_come_first_on_its_path(tmp_path: Path) -> None:
    (tmp_path / "colours.py").write_text("RED = 7")
    assert call(f"{HERE}:where", {}, WIDE, (tmp_path, ROOT)) == {"red": 7}


@pytest.mark.parametrize(
    ("function", "given", "limits", "words"),
    [
        ("refuse", {"why": "so it is"}, WIDE, "^so it is$"),
        ("die", {"how": int(signal.SIGKILL)}, WIDE, "died: the last words"),
        ("break_down", {}, WIDE, "nobody expected this"),
        ("swell", {}, Limits(memory_mb=200, seconds=60), r"MiB of memory and was stopped \(its limit: 200 MiB\)"),
    ],
)
def test_how_it_ended_is_told(function: str, given: dict[str, Any], limits: Limits, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        call(f"{HERE}:{function}", given, limits, (ROOT,))


def test_one_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "below"
    with pytest.raises(ExportError, match="more than 6 s"):
        call(f"{HERE}:hang", {"note": str(note)}, Limits(memory_mb=2000, seconds=6), (ROOT,))
    assert gone(int(note.read_text()))


def test_larger_models_get_more() -> None:
    small, large = limits_for(1 << 28), limits_for(16 << 30)
    assert small.memory_mb < large.memory_mb
    assert small.seconds < large.seconds


def test_one_whose_parent_is_killed_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "process"
    program = f"from {HERE} import ROOT, WIDE, call\ncall('{HERE}:wait', {{'note': {str(note)!r}}}, WIDE, (ROOT,))"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        until = time.monotonic() + 60
        while not note.exists() and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
    child = int(note.read_text())
    while not gone(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert gone(child)
