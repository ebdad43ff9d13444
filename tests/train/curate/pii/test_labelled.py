"""What is found of personal information in marked texts, with the model and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.curation import Pii
from tests.train.curate.pii import make_labelled
from train.curate.pii.finder import Finder
from train.curate.pii.model import PiiModel
from train.curate.pii.scoring import Score, read_labelled, score

HERE = Path(__file__).parent
STRUCTURED = ("email", "phone", "card", "iban", "secret", "ip-address")


def scores(name: str, model: PiiModel | None) -> dict[str, Score]:
    labelled = read_labelled(HERE / name)
    found = Finder(Pii(step="pii"), model).find([each.text for each in labelled])
    made: dict[str, Score] = dict(score(labelled, found))
    print(f"\n{name}, {'with the model' if model else 'by rules alone'}: {len(labelled)} texts")
    for kind, each in made.items():
        print(f"  {kind:<15} {each.marked:>4} marked  recall {each.recall:.3f}  precision {each.precision:.3f}")
    return made


@pytest.mark.parametrize("name", ["labelled", "unseen"])
def test_the_set_is_what_its_script_makes(name: str) -> None:
    source = "templates.txt" if name == "labelled" else "templates_unseen.txt"
    made = [json.loads(json.dumps(item)) for item in make_labelled.items(source)]
    assert made == [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert name != "labelled" or len(made) >= 300


@pytest.mark.parametrize("name", ["labelled.jsonl", "unseen.jsonl"])
def test_structured_kinds_are_found(name: str, pii_model: PiiModel) -> None:
    made = scores(name, pii_model)
    for kind in (*STRUCTURED, "street-address", "government-id", "password"):
        assert made[kind].recall >= 0.95, kind
        assert made[kind].precision >= 0.95, kind
    assert made["name"].recall >= 0.9
    assert made["name"].precision >= 0.85


def test_structured_kinds_need_no_model() -> None:
    made = scores("labelled.jsonl", None)
    for kind in STRUCTURED:
        assert made[kind].recall >= 0.95, kind
    assert made["name"].recall >= 0.5
