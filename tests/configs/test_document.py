from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from configs.document import ConfigError, Strict, read


class Engine(Strict):
    threads: int = Field(ge=1)


class Machine(Strict):
    name: str
    engines: dict[str, Engine] = Field(default_factory=dict)
    tags: list[int] = Field(default_factory=list)


def problem(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read(path, Machine)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("name: a\nengines:\n  one:\n    threads: many\n", 4, "engines.one.threads"),
        ("name: a\nengines:\n  one: {threads: 1}\n\n  two: {threads: 0}\n", 5, "engines.two.threads"),
        ("name: a\ntags:\n  - 1\n  - x\n", 4, "tags.1"),
        ("name: a\n# a comment\nspeed: 3\n", 3, "speed"),
        ("\nengines:\n  one: {}\nname: a\n", 3, "engines.one.threads"),
        ("engines: {}\n", 1, "name"),
        ("", 1, "(file)"),
        ("- a\n- b\n", 1, "(file)"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, text: str, line: int, field: str) -> None:
    path = tmp_path / "machine.yaml"
    assert problem(path, text).startswith(f"{path}:{line}: {field}: ")


def test_every_error_has_its_own_line(tmp_path: Path) -> None:
    lines = problem(tmp_path / "m.yaml", "name: [a]\ntags: [x]\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["name", "tags.0"]


@pytest.mark.parametrize(
    "text", ["name: a\ntags: [1, 2\n", "name: a\nbad: !!python/object:os.system {}\n", "a: b: c\n"]
)
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.yaml"
    told = problem(path, text)
    assert told.startswith(f"{path}:")
    assert told.removeprefix(f"{path}:").split(":")[0].isdigit()


def test_a_file_that_is_missing_or_no_text_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read(tmp_path / "nowhere.yaml", Machine)
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        read(tmp_path / "binary.yaml", Machine)


def test_a_right_file_is_read_and_does_not_change(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: é\nengines: {one: {threads: 2}}\n", encoding="utf-8")
    machine = read(path, Machine)
    assert (machine.name, machine.engines["one"].threads) == ("é", 2)
    with pytest.raises(ValueError, match="frozen"):
        machine.name = "b"
