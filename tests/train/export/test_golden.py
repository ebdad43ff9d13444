"""Each format and version becomes what it must, byte for byte."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.train.export.golden import CASES, GOLDEN, expected, imported, inputs
from train.conversation import read_conversations


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_is_what_is_expected(case: str) -> None:
    said, report = imported(inputs(case))
    wanted, wanted_report = expected(case)
    assert said == wanted
    assert json.loads(report) == json.loads(wanted_report)
    assert imported(inputs(case)) == (said, report), "and the same once more"


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("chatgpt", "claude"))])
def test_a_zip_says_the_same_as_its_folder(case: str, tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted((GOLDEN / case).iterdir()):
            packed.write(file, f"some-folder/{file.name}")
    assert imported(path)[0] == imported(GOLDEN / case)[0] == expected(case)[0]


@pytest.mark.parametrize("case", CASES)
def test_an_import_can_be_imported_and_is_the_same(case: str) -> None:
    said = GOLDEN / f"{case}.jsonl"
    again, report = imported(said)
    assert again == said.read_text()
    assert json.loads(report)["taken"]["conversations"] == len(list(read_conversations(said)))
