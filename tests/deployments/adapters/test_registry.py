from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.adapters import Promotion, base_of, read_adapters, sha256_of
from deployments.adapters import registry as looking
from deployments.adapters.promotion import demote, promote
from deployments.adapters.registry import Registry
from tests.deployments.adapters.made import published

BASE = "smollm2-135m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        published(tmp_path, name, BASE, {})
    return tmp_path


async def test_who_promotes_is_seen_by_all_at_once_and_who_demotes_too(folder: Path) -> None:
    one, other = Registry(folder), Registry(folder)
    assert await one.look() == await other.look() == {}
    manifest = next(read_adapters(folder))
    promote(folder, manifest, Promotion(share=0.2))
    assert [one.promotion.share for one in (await one.look()).values() if one.promotion] == [0.2]
    assert set(await other.look()) == {f"ft:{BASE}:a"}
    demote(folder, "a")
    assert await one.look() == await other.look() == {}
    promote(folder, manifest, Promotion())
    assert set(await Registry(folder).look()) == {f"ft:{BASE}:a"}, "after a restart too"


async def test_every_change_is_seen_however_fast_they_come(folder: Path) -> None:
    registry = Registry(folder)
    manifest = next(read_adapters(folder))
    for _ in range(50):
        promote(folder, manifest, Promotion())
        assert await registry.look()
        demote(folder, "a")
        assert not await registry.look()


async def test_nothing_is_read_while_nothing_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return read_adapters(path)

    monkeypatch.setattr(looking, "read_adapters", counted)
    registry = Registry(folder)
    for _ in range(100):
        await registry.look()
    assert len(read) == 1
    promote(folder, next(read_adapters(folder)), Promotion())
    found = await asyncio.gather(*(registry.look() for _ in range(100)))
    assert all(len(one) == 1 for one in found), "all who came meanwhile wait for what is new"
    assert len(read) == 2


async def test_a_change_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = next(read_adapters(folder))

    def changed_meanwhile(path: Path) -> Any:
        found = list(read_adapters(path))
        if manifest.promotion is None and not any(one.promotion for one in found):
            promote(folder, manifest, Promotion())
        return found

    registry = Registry(folder)
    monkeypatch.setattr(looking, "read_adapters", changed_meanwhile)
    assert await registry.look() == {}
    assert await registry.look() != {}


async def test_what_has_no_folder_or_no_manifest_is_not_there(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    assert await registry.look() == {}
    (tmp_path / "adapters").mkdir()
    published(tmp_path / "adapters", "a", BASE, {}, promotion=Promotion())
    broken = tmp_path / "adapters" / "broken"
    broken.mkdir()
    (broken / "adapter.json").write_text('{"name": "broken"')
    assert set(await registry.look()) == {f"ft:{BASE}:a"}
    shutil.rmtree(tmp_path / "adapters")
    assert await registry.look() == {}


async def test_of_bases_that_are_not_served_it_knows_nothing(folder: Path) -> None:
    published(folder, "c", "another", {}, promotion=Promotion())
    assert set(await Registry(folder).look()) == {"ft:another:c"}
    assert await Registry(folder, [BASE]).look() == {}


async def test_it_tells_one_that_was_demoted_from_one_that_never_was(folder: Path) -> None:
    registry = Registry(folder)
    await registry.look()
    demoted, unknown = registry.missing(f"ft:{BASE}:a"), registry.missing(f"ft:{BASE}:z")
    assert {(one.status, one.code, one.param) for one in (demoted, unknown)} == {(404, "model_not_found", "model")}
    assert "not promoted" in demoted.message
    assert "groupqwen adapters promote a" in demoted.message
    assert "does not exist" in unknown.message


def test_names_and_digests(tmp_path: Path) -> None:
    first = published(tmp_path, "a", BASE, {})
    assert first.model == f"ft:{BASE}:a"
    assert base_of(first.model) == base_of(BASE) == BASE
    assert first.key == f"{first.model}@{first.digest}"
    (tmp_path / "a" / "adapter.gguf").write_bytes(b"weights")
    second = published(tmp_path, "a", BASE, {"gguf": "adapter.gguf"})
    third = published(tmp_path, "a", BASE, {"gguf": "adapter.gguf"}, created=1.0)
    assert len({first.digest, second.digest, third.digest}) == 3
    more = {**second.exports, "merged": second.exports["gguf"]}
    serving = second.model_copy(update={"promotion": Promotion(), "metrics": {"loss": 1.0}, "exports": more})
    assert serving.digest == second.digest, "neither how it serves nor another form changes what it is"


def test_the_checksum_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "x" / "in").mkdir(parents=True)
    (tmp_path / "x" / "b").write_text("1")
    (tmp_path / "x" / "in" / "a").write_text("2")
    before = sha256_of(tmp_path / "x")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    assert sha256_of(tmp_path / "y") == before
    (tmp_path / "y" / "b").rename(tmp_path / "y" / "c")
    assert sha256_of(tmp_path / "y") != before
    (tmp_path / "x" / "b").write_text("3")
    assert sha256_of(tmp_path / "x") != before
