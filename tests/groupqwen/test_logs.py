from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from groupqwen.log_files import LogFile
from groupqwen.log_lines import Line, read_lines
from groupqwen.logs import newest

SERVE = {
    "asctime": "2026-11-26 05:46:55,890",
    "levelname": "ERROR",
    "message": "Request failed.",
    "request_id": "r1",
    "deployment": "Router",
    "replica": "p1kysyk4",
    "exc_text": "one\ntwo",
    "timestamp_ns": 1_795_672_015_890_000_000,
}


def only(text: str, part: str = "file") -> Line:
    (line,) = read_lines(text.splitlines(), part)
    return line


def test_serves_lines_are_read() -> None:
    line = only(json.dumps(SERVE))
    assert line == Line(line.at, 40, "Router#p1ky", "Request failed.", "r1", ("one", "two"))
    assert line.at == pytest.approx(1_795_672_015.89)
    assert line.concerns("r1") and not line.concerns("r2")
    assert only(json.dumps({**SERVE, "request_id": "r1-shadow"})).concerns("r1")
    assert not only(json.dumps({**SERVE, "request_id": "r12"})).concerns("r1")


def test_everyone_elses_are_read() -> None:
    local = time.mktime((2026, 11, 26, 5, 46, 55, 0, 0, -1))
    redis = only("22657:M 26 Nov 2026 05:46:55.500 # WARNING Memory overcommit", "redis")
    assert (redis.at, redis.level, redis.text) == (local + 0.5, 30, "WARNING Memory overcommit")
    postgres = only("2026-11-26 05:46:55.742 UTC [22656] FATAL:  password authentication failed", "postgres")
    assert (postgres.level, postgres.text) == (40, "password authentication failed")
    assert postgres.at == 1_795_672_015.742
    ray = only("2026-11-26 05:46:55,975\tWARNING usage_lib.py:448 -- Usage stats", "ray")
    assert (ray.at, ray.level, ray.text) == (local + 0.975, 30, "usage_lib.py:448 -- Usage stats")
    core = only("[2026-11-26 05:46:55,123 E 18 18] (raylet) store.cc:366: Disconnecting", "raylet")
    assert (core.level, core.text) == (40, "18 18] (raylet) store.cc:366: Disconnecting")
    supervisord = only("2026-11-26 05:46:55,722 CRIT Server running", "supervisord")
    assert (supervisord.level, supervisord.text) == (40, "Server running")
    assert only("2026-11-26 05:46:55 it serves again", "revival").text == "it serves again"
    assert only("2026-11-26 05:46:55,975 OOPS it", "x").text == "OOPS it"


def test_what_has_no_time_belongs_to_the_line_before() -> None:
    text = "lost\n2026-11-26 05:46:55,975 ERROR it broke\nTraceback:\n  here\n{not json\n" + json.dumps(SERVE)
    first, second = read_lines(text.splitlines(), "x")
    assert first.more == ("Traceback:", "  here", "{not json")
    assert second.request == "r1"


def test_a_file_is_read_on_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = LogFile(path)
    assert list(file.lines()) == []
    path.write_text("2026-11-26 05:46:55,975 ERROR one\n2026-11-26 05:46:56,975 ERR")
    assert [line.text for line in file.lines()] == ["one"]
    with path.open("a") as more:
        more.write("OR two\n")
    assert [line.text for line in file.lines()] == ["two"]
    path.write_text("2026-11-26 05:46:57,975 ERROR three\n")  # It was set aside and begun anew.
    assert [line.text for line in file.lines()] == ["three"]


def test_the_newest_come_in_order_and_once() -> None:
    lines = [Line(at, level, "a", "text") for at, level in ((3, 30), (1, 40), (2, 20), (2, 40), (1, 40))]
    found = newest(lines, lambda line: line.level >= 30, 2)
    assert [(line.at, line.level) for line in found] == [(2, 40), (3, 30)]
