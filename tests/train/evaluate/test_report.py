"""The report is one file that loads nothing and runs nothing, whatever a model has said."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.adapters import Gate
from configs.training import EventLog, JobEvent, JobSpec, read_events
from train.evaluate.report import Answered, Findings, Sample, curves, others, page, rows, write_page

HOSTILE = (
    "<script>alert(1)</script>",
    "</p><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    '"><svg onload=alert(1)>',
    "\u202egnp.exe",
    "half \ud800",
)
ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "section",
        "strong",
        "ul",
        "li",
        "div",
    ),
    *("table", "tr", "th", "td", "figure", "figcaption", "article", "details", "summary", "span"),
    *("svg", "g", "path", "defs", "clippath", "rect", "use", "text"),
}
SPEC = JobSpec(
    id="ftjob-" + "0" * 24,
    name="mine",
    base="<b>smol</b>",
    weights=Path("/w"),
    dataset=Path("/d"),
    adapters=Path("/a"),
)


class Elements(HTMLParser):
    """What a browser would make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[JobEvent]:
    folder = tmp_path_factory.mktemp("job")
    log = EventLog(folder)
    log.add("state", state="running")
    for step in [1, 2, 3, 2, 3, 4]:  # (resumed once)
        log.add("progress", step=step, loss=3.0 / step, learning_rate=1e-4, tokens_per_second=None)
    log.add("evaluation", step=4, loss=1.5)
    return list(read_events(folder))


@pytest.fixture(scope="module")
def html(events: list[JobEvent]) -> str:
    findings = Findings(
        metrics={"held_out.base": 2.0, "held_out.adapter": 1.0, "judge.win_rate": 0.5, "tasks.facts.base": 0.1},
        notes=[f"note {text}" for text in HOSTILE],
        samples=[Sample(text, text, text, text, "adapter") for text in HOSTILE],
        answered=[Answered("tasks", text, text, text, True, text, None) for text in HOSTILE],
    )
    return page(SPEC, findings, Gate(passed=False, reasons=list(HOSTILE)), events)


def test_what_models_say_stays_text(html: str) -> None:
    seen = Elements()
    seen.feed(html)
    assert seen.names <= ELEMENTS
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}{% raw %}" in html, "it is no template"
    assert "&lt;b&gt;smol&lt;/b&gt;" in html


def test_nothing_is_loaded(html: str) -> None:
    seen = Elements()
    seen.feed(html)
    links = [value for name, value in seen.attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import", html)
    assert any("default-src 'none'" in value for name, value in seen.attributes if name == "content")


def test_it_fits_a_phone_and_both_themes(html: str) -> None:
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert "currentColor" in html
    assert "#010203" not in html


def test_both_are_side_by_side(html: str) -> None:
    shown = rows({"held_out.base": 2.0, "held_out.adapter": 1.0, "tasks.base": 0.5, "tasks.adapter": 0.4})
    assert [(row.base, row.adapter, row.change) for row in shown] == [(2.0, 1.0, "good"), (0.5, 0.4, "bad")]
    [group] = rows({"tasks.facts.base": 0.1})
    assert (group.meaning, group.adapter, group.change) == (
        "the dataset's own tasks, share right (facts)",
        None,
        "",
    )
    assert others({"judge.win_rate": 0.5, "tasks.base": 1.0}) == {"judge.win_rate": 0.5}
    assert "The gate refuses it." in html
    assert html.count("(judged better)") == len(HOSTILE)
    assert "(not checked)" in html


def test_the_curves_of_a_resumed_job_have_each_step_once(events: list[JobEvent]) -> None:
    made = curves(events)
    assert set(made) == {"Loss", "Learning rate"}, "of nothing there is no chart"
    assert made["Loss"].startswith("<svg")
    assert "validation" in made["Loss"]
    assert made == curves(events), "the same events, the same page"
    assert curves([]) == {}


def test_it_is_written_whatever_it_holds(tmp_path: Path, html: str) -> None:
    write_page(tmp_path / "report.html", html)
    assert "half ?" in (tmp_path / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
