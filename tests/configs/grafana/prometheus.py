"""A real Prometheus and its promtool: those on PATH, or Debian's package, unpacked into the tests' home."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[3]
PROGRAMS = ("prometheus", "promtool")


def prometheus_at() -> Path:
    """The folder with both programs. Fails the test where they cannot be had."""
    on_path = [shutil.which(program) for program in PROGRAMS]
    if on_path[0] and on_path[1]:
        return Path(on_path[1]).parent
    home = Path(os.environ.get("GROUPQWEN_TEST_HOME") or ROOT / ".test-home").absolute()
    folder = home / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not all((folder / program).is_file() for program in PROGRAMS):
            fetch(folder)
    return folder


def fetch(folder: Path) -> None:
    """Debian's and Ubuntu's package, by apt, without installing anything."""
    scratch = folder / "download"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "lists" / "partial").mkdir(parents=True)
    # Package lists of our own: the machine's may be old or not there, and are for root to change.
    lists = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]
    lists += ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    for command in (
        ["apt-get", *lists, "--quiet", "update"],
        ["apt-get", *lists, "--quiet", "download", "prometheus"],
    ):
        _run(command, scratch)
    (package,) = scratch.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(package), str(scratch / "unpacked")], scratch)
    for program in PROGRAMS:
        (scratch / "unpacked" / "usr" / "bin" / program).replace(folder / program)
    shutil.rmtree(scratch)


def _run(command: list[str], cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
        said = "" if done.returncode == 0 else done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said:
        pytest.fail(
            "this test needs Prometheus and promtool (2.42 or newer); they are not on PATH, and Debian's package "
            f"could not be fetched: {said[-500:]}. Install Prometheus, and run them again.",
            pytrace=False,
        )
