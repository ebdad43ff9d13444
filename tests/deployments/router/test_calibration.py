"""What confidence is worth: learned from labelled answers, kept in a file, and made into thresholds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from openai.types.chat import ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_token_logprob import TopLogprob

from configs.escalation import EscalationRules, Target
from deployments.chunks import ChunkBuilder
from deployments.classifier.measures import chance_error, expected_calibration_error
from deployments.classifier.training import TooLittle
from deployments.router.calibrating import Answered, calibrate
from deployments.router.calibration import (
    Calibration,
    CalibrationError,
    Evidence,
    joint_threshold,
    load_calibration,
)
from deployments.router.confidence import Confidence, margin_of, signals_of
from deployments.router.escalation import Judges

RULES = EscalationRules.model_validate({"target": {"accepted_wrong": 0.05}, "commit_tokens": 16})


def labelled(count: int, seed: int = 0, tokens: int = 40, family: str | None = None) -> list[Answered]:
    """Answers that are right as often as their confidence says, on a scale that nobody has told."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        mean = -float(rng.exponential(0.6))
        right = rng.random() < 1 / (1 + math.exp(-(3 + 5 * mean)))
        logprobs = [mean * float(rng.uniform(0.8, 1.2)) for _ in range(tokens)]
        margins = [max(0.0, 1 + value) for value in logprobs]
        signals = signals_of(logprobs, margins)
        assert signals is not None
        found.append(Answered(f"q{number}", signals, bool(right), family, logprobs, margins, None, True))
    return found


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate({"small": labelled(600), "middle": labelled(600, 1)})


def test_calibrated_confidence_means_what_it_says(found: Calibration) -> None:
    measures = found.about["measures"]["small"]
    assert measures["calibration_error"] < 0.06 < measures["calibration_error_before"]
    fresh = labelled(2000, 7)
    right = np.array([float(a.ok) for a in fresh])
    errors = []
    for seed in range(4):
        one = calibrate({"small": labelled(300, seed)}, checkpoints=()).variants["small"]
        said = np.array([one.probability(a.signals, None, None, whole=True) for a in fresh])
        errors.append(expected_calibration_error(said, right))
    assert np.mean(errors) < 0.05, "in the mean over samples of 300 labels"


def test_a_part_of_an_answer_is_judged_by_what_parts_were_worth(found: Calibration) -> None:
    one = found.variants["small"]
    assert [head.tokens for head in one.heads] == [8, 16, 32, None]
    assert [one.head_for(tokens, whole=False) for tokens in (3, 8, 20, 33, 500)] == [0, 0, 1, 2, 2]
    assert one.head_for(3, whole=True) == 3
    begun = signals_of([-0.01] * 16, [0.99] * 16)
    lost = signals_of([-2.0] * 16, [0.1] * 16)
    assert begun is not None and lost is not None
    assert one.probability(begun, None, None, whole=False) > 0.8
    assert one.probability(lost, None, None, whole=False) < 0.2


def test_a_family_with_labels_has_a_calibration_of_its_own() -> None:
    wrong = [
        Answered(**{**a.__dict__, "ok": a.ok and n % 4 == 0}) for n, a in enumerate(labelled(300, 2, 4, "maths"))
    ]
    one = calibrate({"small": [*labelled(300, 1, 4, "chat"), *wrong]}).variants["small"]
    assert one.families == ("chat", "maths")
    signals = signals_of([-0.1] * 4, [0.9] * 4)
    assert signals is not None
    chat, maths, other = (one.probability(signals, family, None, whole=True) for family in ("chat", "maths", "x"))
    assert chat > maths + 0.2
    assert maths < other < chat


def test_it_survives_its_file(found: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    found.save(path)
    again = load_calibration(path)
    signals = labelled(1)[0].signals
    for name in found.variants:
        assert again.variants[name].probability(signals, None, 0.5, whole=True) == pytest.approx(
            found.variants[name].probability(signals, None, 0.5, whole=True)
        )
        assert again.variants[name].evidence.scores == pytest.approx(
            found.variants[name].evidence.scores, abs=1e-5
        )
    assert list(again.only({"small"}).variants) == ["small"]


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"signals": ["other"]},
        {"variants": {"small": {"families": [], "heads": []}}},
        {
            "variants": {
                "small": {
                    "families": [],
                    "heads": [{"tokens": None, "bias": 0, "weights": [1], "knots": [[0], [0]]}],
                }
            }
        },
    ],
)
def test_a_damaged_file_is_refused(found: Calibration, tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**found.as_dict(), **damage}))
    with pytest.raises(CalibrationError):
        load_calibration(path)
    path.write_text("{")
    with pytest.raises(CalibrationError):
        load_calibration(path)


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(TooLittle, match="small: 20 labelled"):
        calibrate({"small": labelled(20)})


# -- thresholds
# ------------------------------------------------------------------------------------------------------


def test_thresholds_follow_from_the_target_and_labels(found: Calibration) -> None:
    judges = Judges(found, RULES, {"small": 0.1, "middle": 0.5})
    strict, loose = judges.threshold("small"), None
    assert strict is not None and 0.5 < strict < 1
    assert judges.threshold("middle") == strict, "one for all"
    assert judges.threshold("large") is None
    assert judges.warnings == []
    target = {"target": {"accepted_wrong": 0.2}, "commit_tokens": 16}
    loose = Judges(found, EscalationRules.model_validate(target)).threshold("small")
    assert loose is not None and loose < strict
    assert judges.promised is not None and judges.promised.bound <= 0.05


def test_the_promise_is_kept_by_the_cascade_on_other_questions(found: Calibration) -> None:
    judges = Judges(found, RULES, {"small": 0.1, "middle": 0.5})
    threshold = judges.threshold("small")
    assert threshold is not None
    wrong = 0
    small, middle = labelled(3000, 11), labelled(3000, 12)
    for pair in zip(small, middle, strict=True):
        for name, one in zip(("small", "middle"), pair, strict=True):
            begun = signals_of(one.logprobs[:16], one.margins[:16])
            assert begun is not None
            if found.variants[name].probability(begun, None, None, whole=False) >= threshold:
                wrong += not one.ok
                break
    assert wrong / 3000 <= 0.05


def test_with_too_few_labels_it_says_so() -> None:
    judges = Judges(calibrate({"small": labelled(60)}), RULES)
    assert judges.accepts_nothing("small")
    assert "60 labelled answers do not show" in judges.warnings[0]
    off = EscalationRules.model_validate({"target": {"quality": 0.95}, "enabled": False})
    assert Judges(calibrate({"small": labelled(60)}), off).of("small", None, None) is None


def test_a_judge_waits_gives_up_accepts_and_escalates(found: Calibration) -> None:
    judge = Judges(found, RULES, {"small": 0.1, "middle": 0.5}).of("small", None, None)
    assert judge is not None

    def seen(tokens: int, logprob: float) -> Confidence:
        confidence = Confidence()
        for _ in range(tokens):
            confidence.answer.add(logprob, 0.9 if logprob > -0.5 else 0.05)
        return confidence

    assert judge.verdict(seen(0, 0), whole=False) == ("wait", None)
    assert judge.verdict(seen(4, -0.01), whole=False)[0] == "wait"
    assert judge.verdict(seen(10, -0.01), whole=False)[0] == "wait"
    assert judge.verdict(seen(10, -4.0), whole=False)[0] == "escalate", "it has never recovered from there"
    assert judge.verdict(seen(16, -0.01), whole=False)[0] == "accept"
    assert judge.verdict(seen(16, -2.0), whole=False)[0] == "escalate"
    assert judge.verdict(seen(3, -0.01), whole=True)[0] == "accept"
    assert judge.verdict(seen(0, 0), whole=True)[0] == "escalate"


def test_a_sorted_log_is_bounded_as_a_shuffled_one() -> None:
    easy, hard = np.ones(300), (np.random.default_rng(0).random(700) < 0.7).astype(float)
    ok = np.concatenate([easy, hard])
    evidence = Evidence(np.full((1, 1000), 0.9), ok, np.ones(1000), "q")
    found = joint_threshold([(evidence.scores[0], evidence)], Target(quality=0.95))
    assert found.never, "0.79 of the quality is not 0.95, whatever comes first"


def test_without_labels_of_parts_nothing_is_judged_before_it_is_whole() -> None:
    whole = calibrate({"small": labelled(300)}, checkpoints=())
    judge = Judges(whole, RULES).of("small", None, None)
    assert judge is not None
    confidence = Confidence()
    for _ in range(200):
        confidence.answer.add(-0.01, 0.99)
    assert judge.verdict(confidence, whole=False) == ("wait", None)
    assert judge.verdict(confidence, whole=True)[0] == "accept"


def test_targets_are_one_of_two() -> None:
    for wrong in ({}, {"quality": 0.9, "accepted_wrong": 0.1}):
        with pytest.raises(ValueError, match="one target"):
            Target.model_validate(wrong)


# -- signals
# ---------------------------------------------------------------------------------------------------------


def test_thoughts_and_answer_are_kept_apart() -> None:
    builder = ChunkBuilder("r", "v")
    token = ChatCompletionTokenLogprob(token="a", logprob=-0.5, top_logprobs=[])
    confidence = Confidence()
    confidence.see(
        [builder.delta(0, reasoning="hm", logprobs=[token] * 5), builder.delta(0, content="a", logprobs=[token])]
    )
    confidence.see([builder.delta(1, content="b", logprobs=[token])])
    assert (len(confidence.thought), len(confidence.answer)) == (5, 1), "and other choices do not count"


def test_the_margin_is_the_likeliest_less_the_second() -> None:
    top = [TopLogprob(token=t, logprob=math.log(p)) for t, p in (("a", 0.6), ("b", 0.3))]
    token = ChatCompletionTokenLogprob(token="a", logprob=math.log(0.6), top_logprobs=top)
    assert margin_of(token) == pytest.approx(0.3)
    assert margin_of(token.model_copy(update={"top_logprobs": []})) == pytest.approx(0.2)


def test_signals_are_finite_whatever_the_engine_says() -> None:
    signals = signals_of([-math.inf, 0.5, -1e9], [0.0, 1.0, 0.0])
    assert signals is not None
    assert all(math.isfinite(value) for value in signals.values())
    assert signals_of([], []) is None


def test_what_chance_alone_leaves_of_the_error_falls_with_the_square_root_of_the_answers() -> None:
    draw = np.random.default_rng(1)
    few, many = (chance_error(draw.random(count)) for count in (300, 30_000))
    assert few == pytest.approx(0.065, abs=0.01)
    assert many == pytest.approx(few / 10, rel=0.2)
    assert chance_error(np.ones(50)) == 0
