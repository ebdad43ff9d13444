"""Which processes coverage leaves unmeasured: Ray's own, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.coverage_saver import SERVES_OWN, _title, is_rays, program_of

ROOT = Path(__file__).parents[1]
RAY = "/x/.venv/lib/python3.11/site-packages/ray"


@pytest.mark.parametrize(
    ("command", "rays"),
    [
        (["python", f"{RAY}/dashboard/dashboard.py", "--host=127.0.0.1"], True),
        (["python", "-u", f"{RAY}/_private/log_monitor.py"], True),
        (["python", "-m", "ray.util.client.server"], True),
        (["python", "/x/.venv/bin/ray", "start"], True),
        (["python", "/x/.venv/bin/serve", "deploy"], True),
        (["python", f"{RAY}/_private/workers/setup_worker.py", f"{RAY}/_private/workers/default_worker.py"], True),
        (["python", "-m", "groupqwen.cli", "status"], False),
        (["/home/ray/.venv/bin/python", "/home/ray/.venv/bin/groupqwen", "status"], False),
        (["python", "-m", "pytest", "tests"], False),
        (["python", "-c", "import ray"], False),
        (["python"], False),
    ],
)
def test_rays_own_programs_are_known_by_their_command(command: list[str], rays: bool) -> None:
    assert is_rays(program_of(command)) == rays


REPORTS = """
import os, sys
import configs.code
mine, passed_on = sys.gettrace() is not None, "COVERAGE_PROCESS_CONFIG" in os.environ
print(mine, passed_on)
"""


@pytest.mark.parametrize(
    ("name", "measured", "children"),
    [("ours.py", True, True), ("serve", False, True), ("site-packages/ray/dashboard/dashboard.py", False, False)],
)
def test_what_is_rays_is_not_traced_and_ends_as_usual(
    tmp_path: Path, name: str, measured: bool, children: bool
) -> None:
    program = tmp_path / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(REPORTS)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"),
        "COVERAGE_FILE": str(tmp_path / "data"),
    }
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"{measured} {children}", "")
    assert list(tmp_path.glob("data*")) or not measured


def test_a_worker_has_no_name_before_ray_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for half in (None, ModuleType("ray._raylet")):
        monkeypatch.setitem(sys.modules, "ray._raylet", half)
        assert _title() == ""
    whole = ModuleType("ray._raylet")
    whole.getproctitle = lambda: "ray::ServeController.x"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray._raylet", whole)
    assert _title().startswith(SERVES_OWN)
