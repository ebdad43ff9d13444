"""The systemd units: what systemd says of them, and whether all that they run is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groupqwen.cli import app

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "scripts" / "systemd").glob("groupqwen*"))


def read(unit: Path) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_of_a_unit_is_there_with_its_options() -> None:
    commands = [
        value
        for unit in UNITS
        if unit.suffix == ".service"
        for name, value in read(unit)["Service"].items()
        if name.startswith("Exec")
    ]
    assert len(commands) == 5
    for command in commands:
        for script in re.findall(r"scripts/\S+\.sh", command):
            assert (ROOT / script).is_file()
        for option in re.findall(r"--[a-z-]+", command):
            verb = "down" if "down.sh" in command else "up"
            shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).stdout
            assert option in shown, f"{verb} has no {option}"


def test_the_check_starts_nothing_while_all_is_well_and_all_when_nothing_answers(tmp_path: Path) -> None:
    """With stand-ins for the two commands: what is tested is the script."""
    shutil.copytree(ROOT / "scripts" / "systemd", tmp_path / "scripts" / "systemd")
    binary = tmp_path / ".venv" / "bin" / "groupqwen"
    binary.parent.mkdir(parents=True)
    (tmp_path / "scripts" / "up.sh").write_text('echo "up $*"\n')

    def checked(well: bool) -> str:
        binary.write_text(f"#!/bin/sh\nexit {0 if well else 1}\n")
        binary.chmod(0o755)
        (tmp_path / "sleep").write_text("#!/bin/sh\n")
        (tmp_path / "sleep").chmod(0o755)
        return subprocess.run(
            ["bash", "scripts/systemd/check.sh"],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "GROUPQWEN_UP": "--profile cpu"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    assert checked(well=True) == ""
    assert checked(well=False) == "up --no-ask --profile cpu\n"
