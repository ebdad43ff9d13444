"""The dashboards without Grafana: of its schema, and asking for what the code exports."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tests.configs.grafana.exported import exported, ours
from tests.configs.grafana.grafana_schema import faults
from tests.configs.grafana.promql import DASHBOARDS, Query, panels, shown

QUERIES = list(shown())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafana_knows_every_field(name: str) -> None:
    assert faults(DASHBOARDS[name]) == []


def test_the_schema_sees_what_is_wrong() -> None:
    broken: dict[str, Any] = copy.deepcopy(DASHBOARDS["groupqwen"])
    first, second = broken["panels"][:2]
    first["gridPos"]["w"] = "4"
    first["options"]["colourMode"] = "value"
    second["options"]["colorMode"] = "blue"
    second["targets"][0]["expresion"] = "up"
    broken["templating"]["list"][1]["type"] = "guess"
    assert [fault.split(": ")[0] for fault in faults(broken)] == [
        "dashboard.panels[0].options.colourMode",
        "dashboard.panels[1].targets[0].expresion",
        "dashboard.panels[0].grid_pos.w",
        "dashboard.panels[1].options.color_mode",
        "dashboard.templating.list_val[1].type_val",
    ]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_they_ask_for_what_the_code_exports(query: Query) -> None:
    assert query.series
    for name, labels in query.series.items():
        assert name in exported(), f"nothing exports {name}"
        assert labels <= exported()[name], f"{name} has no label {labels - exported()[name]}"


def test_they_show_every_series_of_ours() -> None:
    seen = {name for query in QUERIES for name in query.series}
    of_histograms = {f"{name.removesuffix('_bucket')}_{part}" for name in seen for part in ("sum", "count")}
    assert len(ours()) >= 30
    assert ours().keys() - seen - of_histograms == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_room_of_their_own(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARDS[name]["panels"]}) == len(DASHBOARDS[name]["panels"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_they_can_be_imported_anywhere(name: str) -> None:
    """No panel names a data source of ours, links lead to dashboards of ours, and everything has a unit."""
    dashboard = DASHBOARDS[name]
    sources = {panel["datasource"]["uid"] for panel in panels(dashboard)}
    sources |= {target["datasource"]["uid"] for panel in panels(dashboard) for target in panel["targets"]}
    sources |= {note["datasource"]["uid"] for note in dashboard["annotations"]["list"]}
    assert sources == {"${datasource}"}
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "variant"]
    known = {f"/d/{other['uid']}" for other in DASHBOARDS.values()}
    assert {link["url"] for link in dashboard["links"]} < known
    for panel in panels(dashboard):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len(panel["description"]) > 10, panel["title"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_legends_name_labels_that_are_left(query: Query) -> None:
    dashboard, _, rest = query.where.partition(": ")
    for panel in panels(DASHBOARDS[dashboard]):
        for target in panel["targets"]:
            if rest == f"{panel['title']} {target['refId']}":
                left = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query.expression))))
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left
