"""What a key may go on from, and which names it may take."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from configs.catalog import load_catalog
from configs.home import Home
from configs.profile import load_profile
from deployments.contract import ChatError
from deployments.finetuning.intake import Intake
from deployments.finetuning.job import Job
from tests.deployments.adapters.made import published
from tests.deployments.finetuning.test_states import job

CATALOG = load_catalog()
MINE, THEIRS = job(1), job(2, key_id="key_2")
FREE = "free"


class Store:
    async def job(self, job_id: str, key_id: str | None) -> Job | None:
        return next((one for one in (MINE, THEIRS) if (one.id, one.key_id) == (job_id, key_id)), None)


@pytest.fixture
def check(tmp_path: Path) -> Any:
    home = Home(tmp_path)
    mine = published(home.adapters, "mine", "small", {}, job=MINE.id)
    published(home.adapters, "theirs", "small", {}, job=THEIRS.id)
    published(home.adapters, "by-hand", "small", {})
    (home.adapters / "broken").mkdir()
    store: Any = Store()
    intake = Intake(load_profile("cpu", CATALOG), CATALOG, home, store, tmp_path.joinpath, None)

    def go(name: str, parents: tuple[str, ...] = (), under_way: tuple[Job, ...] = ()) -> str | None:
        try:
            asyncio.run(intake.check_own(name, parents, "key_1", under_way))
        except ChatError as refused:
            return f"{refused.status} {refused.code}"
        return None

    go.mine = mine  # type: ignore[attr-defined]
    return go


def test_a_key_takes_no_name_of_somebody_else_s(check: Any) -> None:
    assert check(FREE) is None
    assert check("mine") is None
    assert [check(name) for name in ("theirs", "by-hand", "broken")] == ["409 name_taken"] * 3
    assert check("habit", under_way=(MINE,)) is None
    assert check("habit", under_way=(THEIRS,)) == "409 name_taken", "it is being made"


def test_a_key_goes_on_from_its_own(check: Any) -> None:
    assert check(FREE, ("mine",)) is None
    assert check(FREE, ("theirs",)) == check(FREE, ("by-hand",)) == "404 model_not_found"
    assert check(FREE, (check.mine.version,)) is None
    assert check(FREE, ("mine@20200101T000000000Z",)) == "404 model_not_found", "it was replaced meanwhile"
