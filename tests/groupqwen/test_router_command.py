"""`groupqwen router calibrate` and `report`, and `groupqwen keys`, as a person runs them, without a running
group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from configs.catalog import load_catalog
from configs.profile import load_profile
from configs.routing import Condition, Rule, load_routing
from deployments.classifier.layers import Layers
from deployments.classifier.learned import FAMILIES, load_learned
from deployments.classifier.training import learn
from deployments.contract import ChatRequest, RequestContext
from deployments.router.calibration import load_calibration
from deployments.router.rules import Rules
from groupqwen.cli import app
from groupqwen.outcomes import OutcomesError
from groupqwen.router_report import page
from groupqwen.routers import outcomes_of
from serve_app.keys import create_key, hash_key, read_keys
from tests.benchmarks.test_cascade import written


@pytest.fixture()
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUPQWEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_calibrating_says_what_it_is_worth_and_the_report_draws_it(home: Path, tmp_path: Path) -> None:
    log = written(tmp_path / "answers.jsonl", 240)
    done = run("router", "calibrate", "--from", str(log))
    assert done.exit_code == 0, done.output
    assert "ECE after" in done.output
    assert list(load_calibration(home / "calibration.json").variants) == ["small", "middle"]
    reported = run("router", "report", "--out", str(tmp_path / "page.html"))
    assert reported.exit_code == 0, reported.output
    assert "Without what was said of answers" in reported.output, "no group is running"
    drawn = (tmp_path / "page.html").read_text()
    assert drawn.count("<svg") == 2
    assert "Target: 95% of the largest" in drawn


def test_too_little_is_refused_and_nothing_to_report_is_said(home: Path, tmp_path: Path) -> None:
    few = run("router", "calibrate", "--from", str(written(tmp_path / "few.jsonl", 20)))
    assert few.exit_code != 0
    assert "too few" in few.output
    assert not (home / "calibration.json").exists()
    nothing = run("router", "report", "--out", str(tmp_path / "page.html"))
    assert nothing.exit_code != 0
    assert "nothing was learned yet" in nothing.output


def said(count: int = 150) -> list[dict[str, Any]]:
    """Verdicts on answers of two variants, of which one is good at one thing and the other at the other."""
    rows = []
    for number in range(count):
        kind = "apples" if number % 2 else "pears"
        for variant, good in (("small", "apples"), ("large", "pears")):
            if (number // 2) % 2 or variant == "small":
                rows.append(
                    {
                        "query": f"question {number} about {kind}",
                        "variant": variant,
                        "task": "chat",
                        "correct": float(kind == good),
                        "expected": 0.9,
                    }
                )
    return rows


def test_verdicts_become_outcomes_though_not_all_have_answered() -> None:
    outcomes = outcomes_of(said())
    assert set(outcomes.right) == {"small", "large"}
    assert np.isnan(outcomes.right["large"]).sum() > 0
    learned = learn(outcomes)
    apples = learned.predict("what about apples")
    assert apples["small"] > 0.7
    assert apples["large"] < 0.4
    assert learned.about["measures"]["variants"]["large"]["answers"] < 150
    with pytest.raises(OutcomesError, match="nothing was said"):
        outcomes_of([])


def test_the_page_says_what_has_drifted() -> None:
    drawn = page(None, None, said(), load_routing())
    assert "drifted after" in drawn, "half of it was right, and 0.9 were expected"
    assert "groupqwen router train" in drawn
    hostile = [{**row, "variant": "<script>x</script>"} for row in said(20)]
    assert "<script>" not in page(None, None, hostile, load_routing())
    assert "AUROC" in page(learn(outcomes_of(said())), None, [], load_routing())


def labelled(path: Path, count: int) -> Path:
    """Questions about two things, as a person would label them."""
    kinds = {"law": "Is the contract {} void under clause {}?", "food": "How long must dish {} boil at heat {}?"}
    rows = [f'"{kinds[kind].format(number, number % 7)}",{kind}' for number in range(count) for kind in kinds]
    path.write_text("\n".join(["question,category", *rows]))
    return path


def test_what_a_question_is_about_is_learned_from_labels_and_rules_may_use_it(home: Path, tmp_path: Path) -> None:
    done = run("router", "families", "--from", str(labelled(tmp_path / "labelled.csv", 40)))
    assert done.exit_code == 0, done.output
    assert "2 labels, 80 questions" in done.output
    assert "100.0% are told right" in done.output
    layers = Layers(load_routing(), None, families=load_learned(home / "families.npz", FAMILIES))

    def domain(text: str) -> str | None:
        return layers.read(ChatRequest(messages=[{"role": "user", "content": text}])).domain

    assert domain("Is the contract 99 void under clause 3?") == "law"
    assert domain("How long must dish 99 boil at heat 3?") == "food"
    assert domain("hi") is None, "of two labels one is always likelier"
    assert domain("") is None
    rules = load_routing().model_copy(
        update={"rules": (Rule(name="lawyers", when=Condition(domain=("law",)), prefer="qwen2.5-coder-1.5b"),)}
    )
    deciding = Rules(load_profile("cpu"), load_catalog(), rules)
    for text, reason in (
        ("Is the contract 99 void under clause 3?", "rule: lawyers"),
        ("hi", "trivial query; smollm2-135m is passed over"),
    ):
        request = ChatRequest(messages=[{"role": "user", "content": text}])
        decision = deciding.decide(request, RequestContext("r", "k"), layers.read(request))
        assert decision.reason == reason
        assert decision.as_dict()["domain"] == domain(text)


def test_labels_that_are_too_few_are_refused_with_the_line_or_the_label(home: Path, tmp_path: Path) -> None:
    few = run("router", "families", "--from", str(labelled(tmp_path / "few.csv", 3)))
    assert few.exit_code != 0
    assert "food, law have fewer than 5 questions" in few.output
    bad = tmp_path / "bad.csv"
    bad.write_text("question,category\nWhat?,law\nWhy?,\n")
    told = run("router", "families", "--from", str(bad))
    assert told.exit_code != 0
    assert "line 3" in told.output
    bad.write_text("question,category\nWhat?,law\nWhat?,law\nWhat?,food\n")
    assert "line 4" in run("router", "families", "--from", str(bad)).output, "one question, two labels"
    assert not (home / "families.npz").exists()


def test_one_kind_of_artifact_is_not_taken_for_another_and_a_better_one_stays(home: Path, tmp_path: Path) -> None:
    path = home / "families.npz"
    assert run("router", "families", "--from", str(labelled(tmp_path / "good.csv", 40))).exit_code == 0
    shown = run("router", "show", "--artifact", str(path))
    assert shown.exit_code != 0
    assert "holds families, not router" in shown.output
    kept = path.read_bytes()
    muddle = tmp_path / "muddle.csv"
    muddle.write_text(
        "question,category\n"
        + "\n".join(f"What is {number}?,{'law' if number % 2 else 'food'}" for number in range(40))
    )
    worse = run("router", "families", "--from", str(muddle))
    assert worse.exit_code == 1
    assert "is better" in worse.output
    assert path.read_bytes() == kept
    assert run("router", "families", "--from", str(muddle), "--force").exit_code == 0
    assert path.read_bytes() != kept


def test_without_an_embedder_it_is_said_what_makes_one(home: Path) -> None:
    done = run("cache", "explain", "Is 3 prime?", "Is 4 prime?")
    assert done.exit_code == 1
    assert "all-minilm-l6-v2 is not here yet (`up` makes it)" in done.output


def test_a_cache_key_is_made_once(home: Path) -> None:
    done = run("cache", "encrypt")
    assert done.exit_code == 0 and "keep a copy" in done.output
    made = (home / "cache.key").read_text()
    again = run("cache", "encrypt")
    assert again.exit_code == 1 and "a key already" in again.output
    assert (home / "cache.key").read_text() == made


def test_the_caches_files_need_a_group_that_was_started(home: Path, tmp_path: Path) -> None:
    for command in (["export", str(tmp_path / "x")], ["warm"], ["pin", "f" * 40]):
        done = run("cache", *command)
        assert done.exit_code == 1 and "scripts/up.sh" in done.output, command


def test_keys_are_made_rotated_and_revoked(home: Path) -> None:
    path = home / "keys.json"
    assert run("keys", "create", "me", "--scope", "chat", "--scope", "admin").exit_code == 0
    made = run("keys", "create", "phone", "--variant", "small", "--local")
    assert made.exit_code == 0, made.output
    owner, phone = read_keys(path)
    assert owner.scopes == ("chat", "admin")
    assert (phone.scopes, phone.variants, phone.remote) == (("chat",), ("small",), False)
    secret = made.output.split()[-1]
    assert phone.sha256 == hash_key(secret) and secret not in path.read_text()
    rotated = run("keys", "rotate", phone.id)
    assert read_keys(path)[1].sha256 == hash_key(rotated.output.split()[-1]) != phone.sha256
    assert run("keys", "revoke", owner.id).exit_code != 0, "nobody could make another"
    assert run("keys", "revoke", phone.id).exit_code == 0
    assert [key.id for key in read_keys(path)] == [owner.id]
    for command in (["revoke", phone.id], ["rotate", phone.id], ["create", "x", "--scope", "root"]):
        assert run("keys", *command).exit_code != 0


def test_keys_are_listed_and_may_prefer_something(home: Path) -> None:
    key, secret = create_key(home / "keys.json", "laptop")
    done = run("keys", "prefer", key.id, "economy")
    assert done.exit_code == 0, done.output
    listed = run("keys", "list")
    assert key.id in listed.output and "economy" in listed.output
    assert secret not in listed.output
    assert run("keys", "prefer", key.id, "default").exit_code == 0
    assert read_keys(home / "keys.json")[0].preference is None
    assert run("keys", "group", key.id, "family").exit_code == 0
    assert read_keys(home / "keys.json")[0].group == "family"
    assert run("keys", "group", key.id, "none").exit_code == 0
    assert read_keys(home / "keys.json")[0].group is None
    assert run("keys", "group", key.id, "two words").exit_code != 0
    assert run("keys", "prefer", key.id, "cheap").exit_code != 0
    assert run("keys", "prefer", "key_none", "best").exit_code != 0
