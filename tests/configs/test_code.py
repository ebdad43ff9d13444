from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from configs import code
from configs.code import code_id
from configs.document import ROOT


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree like ours, of which `code_id` takes the fingerprint."""
    for file in ("configs/models.yaml", "configs/routing.yaml", "configs/profiles/cpu.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT.parent / file, tmp_path / file)
    for file in ("deployments/a.py", "deployments/ledger/0001.sql", "serve_app/b.py", "groupqwen/stack/deploy.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"# {file}\n")
    monkeypatch.setattr(code, "__file__", str(tmp_path / "configs/code.py"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "replaces"),
    [
        ("deployments/a.py", True),
        ("deployments/ledger/0001.sql", True),
        ("serve_app/b.py", True),
        ("configs/models.yaml", False),  # stands in the configuration itself, and so do the rest
        ("configs/profiles/cpu.yaml", False),
        ("configs/routing.yaml", False),
        ("groupqwen/stack/deploy.py", False),  # replicas do not run it
        ("deployments/__pycache__/a.pyc", False),
    ],
)
def test_replicas_are_replaced_just_when_what_they_run_changes(copy: Path, file: str, replaces: bool) -> None:
    before = code_id()
    assert code_id() == before
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a") as changed:
        changed.write("\n# changed\n")
    assert (code_id() != before) == replaces


def test_the_real_code_has_an_id() -> None:
    assert code_id() == code_id()
    assert len(code_id()) == 16
    int(code_id(), 16)
