"""Rows as jobs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from deployments.finetuning.store import readable
from tests.deployments.finetuning.test_states import job


def row(number: int, recipe: dict[str, Any]) -> dict[str, Any]:
    one = job(number)
    spec = one.spec.model_dump(mode="json")
    now = datetime.now(UTC)
    return {
        **{"id": one.id, "key_id": one.key_id, "created": now, "queued": now, "started": None, "finished": None},
        **{"cancel": None, "state": "queued", "asked": "{}", "progress": "{}"},
        "spec": json.dumps({**spec, "recipe": {**spec["recipe"], **recipe}}),
    }


@pytest.mark.parametrize("recipe", [{"beta": None}, {"of_a_later_release": 1}])
def test_a_row_that_cannot_be_read_hides_no_other(recipe: dict[str, Any]) -> None:
    jobs, broken = readable([row(1, {}), row(2, recipe), row(3, {})])
    assert [one.id for one in jobs] == [job(1).id, job(3).id]
    assert list(broken) == [job(2).id]
    assert f"recipe.{next(iter(recipe))}" in broken[job(2).id]
