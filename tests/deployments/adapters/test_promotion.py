from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from configs.adapters import Gate, Promotion, read_adapter, registry_lock
from deployments.adapters import promotion
from deployments.contract import ChatError
from tests.deployments.adapters.made import published

BASE = "smollm2-135m"


def code_of(failing: Any, *arguments: Any) -> tuple[int, str | None]:
    with pytest.raises(ChatError) as refused:
        failing(*arguments)
    return refused.value.status, refused.value.code


def test_the_gate_says_why_not(tmp_path: Path) -> None:
    def reasons(gate: Gate | None) -> list[str]:
        return promotion.objections(published(tmp_path, "a", BASE, {}, gate=gate))

    assert reasons(Gate(passed=True, reasons=["held against the base"])) == []
    assert reasons(Gate(passed=False, reasons=["it forgets", "it repeats a secret"])) == [
        "it forgets",
        "it repeats a secret",
    ]
    assert reasons(Gate(passed=False)) == ["its gate says no"]
    assert reasons(None) == ["it was not evaluated"]


def test_shares_of_one_base_are_no_more_than_all(tmp_path: Path) -> None:
    new = published(tmp_path, "new", BASE, {})
    published(tmp_path, "old", BASE, {}, promotion=Promotion(share=0.7))
    published(tmp_path, "elsewhere", "another", {}, promotion=Promotion(share=0.9))
    promotion.check_share(tmp_path, new, 0.3)
    with pytest.raises(ChatError, match="old 70%") as refused:
        promotion.check_share(tmp_path, new, 0.4)
    assert (refused.value.status, refused.value.code) == (409, "share_taken")
    promotion.check_share(tmp_path, read_adapter(tmp_path / "old"), 1.0)


def test_it_serves_and_ceases_to_and_goes(tmp_path: Path) -> None:
    manifest = published(tmp_path, "a", BASE, {})
    promotion.promote(tmp_path, manifest, Promotion(share=0.5, forced=True))
    found = promotion.find(tmp_path, "a")
    assert found.promotion is not None
    assert (found.promotion.share, found.promotion.forced) == (0.5, True)
    assert code_of(promotion.remove, tmp_path, "a") == (409, "adapter_promoted")
    assert promotion.demote(tmp_path, "a").promotion is None
    promotion.remove(tmp_path, "a")
    assert [one.name for one in tmp_path.iterdir()] == [".lock"]
    assert code_of(promotion.find, tmp_path, "a") == (404, "no_such_adapter")
    assert code_of(promotion.demote, tmp_path, "a") == (404, "no_such_adapter")


def test_nobody_waits_for_ever_for_others_to_have_changed_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = published(tmp_path, "a", BASE, {})
    monkeypatch.setattr(promotion, "LOCK_SECONDS", 0.05)
    with registry_lock(tmp_path):
        for act, *arguments in (
            (promotion.promote, manifest, Promotion()),
            (promotion.demote, "a"),
            (promotion.remove, "a"),
        ):
            with pytest.raises(ChatError, match="have been changing") as busy:
                act(tmp_path, *arguments)  # type: ignore[operator]
            told = busy.value
            assert (told.status, told.code, told.retry_after) == (503, "registry_busy", 0.05)
    assert promotion.promote(tmp_path, manifest, Promotion()).promotion is not None


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = published(tmp_path, "a", BASE, {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(promotion, "write_adapter", full)
    assert code_of(promotion.promote, tmp_path, manifest, Promotion()) == (507, "storage_full")


def test_who_is_killed_while_it_removes_leaves_the_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path, "a", BASE, {})
    with monkeypatch.context() as dying:
        dying.setattr(promotion.shutil, "rmtree", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promotion.remove(tmp_path, "a")
    assert not (tmp_path / "a").exists()
    published(tmp_path, "b", BASE, {})
    promotion.remove(tmp_path, "b")
    assert [one.name for one in tmp_path.iterdir()] == [".lock"], "the next one sweeps"


def test_weights_that_were_not_asked_are_not_promoted(tmp_path: Path) -> None:
    tried = published(tmp_path, "a", BASE, {})
    published(tmp_path, "a", BASE, {}, created=tried.created + 1)
    assert code_of(promotion.promote, tmp_path, tried, Promotion()) == (409, "adapter_changed")
    assert read_adapter(tmp_path / "a").promotion is None


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".", "..", "A", "a\n", "a" * 64])
def test_a_name_that_is_none_finds_nothing(tmp_path: Path, name: str) -> None:
    published(tmp_path, "a", BASE, {})
    assert code_of(promotion.find, tmp_path / "a", name) == (404, "no_such_adapter")


def test_a_manifest_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    published(tmp_path, "a", BASE, {})
    (tmp_path / "a" / "adapter.json").write_text("{")
    assert code_of(promotion.find, tmp_path, "a") == (409, "broken_adapter")
