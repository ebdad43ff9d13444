"""What each format's files must become. `python -m tests.train.export.golden` writes what is expected anew: look
at the difference before you keep it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from train.export.importing import Import, write_import

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def inputs(case: str) -> Path:
    """The folder of a case's files; where there is one only, that file."""
    files = list((GOLDEN / case).iterdir())
    return files[0] if len(files) == 1 else GOLDEN / case


def imported(path: Path) -> tuple[str, str]:
    """The conversations and the report of an import, as they are written."""
    with tempfile.TemporaryDirectory() as folder:
        importing = Import()
        written = write_import(Path(folder), "golden", importing, importing.files([path]))
        return written.read_text(), (Path(folder) / "golden.report.json").read_text()


def expected(case: str) -> tuple[str, str]:
    return (GOLDEN / f"{case}.jsonl").read_text(), (GOLDEN / f"{case}.report.json").read_text()


def main() -> None:
    for case in CASES:
        said, report = imported(inputs(case))
        (GOLDEN / f"{case}.jsonl").write_text(said)
        (GOLDEN / f"{case}.report.json").write_text(report)
        print(case, json.loads(report)["taken"])


if __name__ == "__main__":
    main()
