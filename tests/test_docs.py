"""What docs/ quotes is what the code says: messages, codes, tests, settings and routes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TROUBLE = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text()
PACKAGES = ("configs", "serve_app", "deployments", "groupqwen", "scripts")
SOURCE = "\n".join(
    path.read_text()
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.*"))
    if path.suffix in (".py", ".sh")
)
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
ROWS = [line.split("|")[1:-1] for line in TROUBLE.splitlines() if line.startswith("|") and "`" in line]


def unwrapped(source: str) -> str:
    """With strings that go on in the next line in one piece."""
    return re.sub(r'"\s*\n\s*f?"', "", source)


CODE = unwrapped(SOURCE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:40])
def test_what_is_quoted_is_said_and_provoked(row: list[str]) -> None:
    said, *_, provoked = row
    for quoted in re.findall(r"`([^`]+)`", said):
        assert quoted in CODE, f"nobody says {quoted!r}"
    for name in re.findall(r"`(test_\w+)`", provoked):
        assert f"def {name}(" in TESTS, f"there is no {name}"


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((ROOT / "configs" / "grafana" / "alerts.yaml").read_text())
    wanted = {rule["annotations"]["see"] for group in rules["groups"] for rule in group["rules"]}
    headings = re.findall(r"^#+ (.+)$", TROUBLE, flags=re.M)
    anchors = {f"docs/TROUBLESHOOTING.md#{heading.lower().replace(' ', '-')}" for heading in headings}
    assert wanted - anchors == set()


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)
    }
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text):
        assert not target or target.startswith("http") or (document.parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in anchors, anchor
