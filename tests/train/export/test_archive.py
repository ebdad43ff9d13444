"""Zips that are made to do harm, or were cut; folders; and files that are no exports."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from train.conversation import DataError
from train.export import archive
from train.export.archive import Damaged, open_export
from train.export.importing import Import, write_import

CHAT = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
GOOD = json.dumps([CHAT]).encode()


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in members:
            packed.writestr(name, data, method)
    return path


def imported(path: Path) -> tuple[list[Any], dict[str, Any]]:
    importing = Import()
    found = list(importing.files([path]))
    return found, importing.report.as_dict()["left"]["files"]


@pytest.mark.parametrize(
    "name", ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:\\evil.json", "..\\e.json"]
)
def test_a_name_that_climbs_out_costs_only_itself(tmp_path: Path, name: str) -> None:
    found, left = imported(zipped(tmp_path / "a.zip", (name, GOOD), ("good.json", GOOD)))
    assert len(found) == 1
    assert left["its name climbs out of the archive"]["count"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"], "nothing is unpacked"


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"[" + b" " * (40 << 20) + b"]"
    path = zipped(tmp_path / "a.zip", ("bomb.json", bomb), ("good.json", GOOD))
    read: list[str] = []
    opened = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile,
        "open",
        lambda self, name, *a, **k: (read.append(name.filename), opened(self, name, *a, **k))[1],
    )
    found, left = imported(path)
    assert len(found) == 1 and set(read) == {"good.json"}
    assert any("made to explode" in why for why in left)


def test_what_is_larger_in_all_than_any_export_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    found, left = imported(zipped(tmp_path / "a.zip", ("a.json", GOOD), ("b.json", GOOD)))
    assert not found and any("unpack it" in why for why in left)


def test_a_size_that_lies_gives_no_more_than_it_says(tmp_path: Path) -> None:
    """The index says 60 bytes; there are millions."""
    path = zipped(tmp_path / "a.zip", ("lie.json", b"[" + b" " * (3 << 20) + b"]"))
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 60)
    path.write_bytes(data)
    with open_export(path) as export:
        (part,) = export.parts
        with part.open() as file, pytest.raises(Damaged):
            assert len(file.read()) <= 60
    assert imported(path)[0] == []


def test_files_that_lie_over_each_other_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("one.json", GOOD * 2), ("two.json", GOOD * 3))
    data = bytearray(path.read_bytes())
    first = data.find(b"PK\x01\x02")
    second = data.find(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    found, left = imported(path)
    assert not found and left["it lies over another: the archive is made to explode"]["count"] == 2


def test_an_index_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 3 << 30, 4, 0))
    with pytest.raises(DataError, match="more files than any export"), open_export(path):
        pass
    more = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 3 << 30, 4)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"PK\x03\x04" + more + b"PK\x06\x07" + struct.pack("<IQI", 0, 4, 1) + end)
    with pytest.raises(DataError, match="more files than any export"), open_export(path):
        pass


def test_what_is_encrypted_linked_or_packed_otherwise_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(link, b"/etc/passwd")
        packed.writestr("secret.json", GOOD)
        packed.writestr("lzma.json", GOOD, zipfile.ZIP_LZMA)
        packed.writestr("inner.zip", b"PK\x05\x06" + bytes(18))
        packed.writestr("good.json", GOOD, zipfile.ZIP_DEFLATED)
        packed.writestr("image.png", b"\x89PNG")
    data = bytearray(path.read_bytes())
    at = data.find(b"secret.json", data.find(b"PK\x01\x02")) - 46
    data[at + 8] |= 1
    path.write_bytes(data)
    found, left = imported(path)
    assert len(found) == 1
    why = {tally["examples"][0]: reason for reason, tally in left.items()}
    assert why["link.json"] == "it is a link"
    assert why["secret.json"].startswith("it is encrypted: unpack it with its password")
    assert why["lzma.json"].startswith("it is packed by a method")
    assert why["inner.zip"].startswith("it is an archive in the archive")
    assert why["image.png"] == "it is no JSON"


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_zip_that_was_cut_says_what_to_do(tmp_path: Path, keep: float) -> None:
    path = zipped(tmp_path / "a.zip", ("conversations.json", json.dumps([CHAT] * 500).encode()))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match="download it again"), open_export(path):
        pass


def test_what_comes_before_damage_within_a_zip_is_kept(tmp_path: Path) -> None:
    chats = [{**CHAT, "id": f"{n}-{n * 7919 % 1000}-{'x' * (n % 50)}"} for n in range(20_000)]
    path = zipped(tmp_path / "a.zip", ("conversations.json", json.dumps(chats).encode()), ("other.json", GOOD))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    importing = Import()
    found = list(importing.files([path]))
    reasons = importing.report.left["conversations"]
    assert 5000 < len(found) < 20_000
    assert any("damaged here" in why and "download it again" in why for why in reasons)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("chat.html", b"<!DOCTYPE html><html>", "whole zip of the export"),
        ("a.json", "\ufeff[]".encode("utf-16-le"), "save it as UTF-8"),
        ("a.json.gz", b"\x1f\x8b\x08", "unpack it"),
        ("a.zip", b"nothing", "download it again"),
        ("a.json", b"", "it is empty"),
        ("a.json", b"hello", "it is no JSON"),
        ("a.json", b"[]", "there is nothing in it"),
        ("a.json", b"[[1]]", "first element is no object"),
        ("a.json", b'[{"version": 9, "turns": []}]', "has the fields version, turns"),
        ("a.json", b'{"version": 9, "turns": []}', "has the fields version, turns"),
        ("a.jsonl", b"{]\n{]\n", "it is no JSON"),
        ("a.json", b"[" * 200_000, "nested too deeply"),
        ("a.json", b'{"a":' * 200_000, "nested too deeply"),
    ],
)
def test_what_is_no_export_says_what_to_do(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    importing = Import()
    with pytest.raises(DataError, match="there is no conversation that can be taken") as raised:
        write_import(tmp_path / "imports", "it", importing, importing.files([path]))
    assert why in str(raised.value) and name in str(raised.value)
    assert not (tmp_path / "imports").exists()


def test_a_folder_is_read_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_bytes(GOOD)
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "chats.json").write_bytes(GOOD)
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    (folder / "user.json").write_text("{}")
    found, left = imported(folder)
    assert len(found) == 1
    assert left == {"it holds no conversations": {"count": 1, "examples": ["user.json"]}}


def test_bytes_that_were_read_are_counted(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("conversations.json", GOOD))
    counted: list[int] = []
    list(Import().files([path], counted.append))
    assert sum(counted) == len(GOOD)
    assert io.BytesIO(GOOD).read() == GOOD
