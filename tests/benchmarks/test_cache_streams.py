"""A stream through the cache's decision, small enough to follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.cache_streams import FIXED, Stream, drifting, read_stream, replay, shuffled
from configs.routing import CacheRules
from groupqwen.outcomes import OutcomesError

ANSWERS, EACH = 6, 300


@pytest.fixture(scope="module")
def stream() -> Stream:
    """Six answers, each asked for in directions around its own; two of them lie near each other."""
    draw = np.random.default_rng(0)
    centres = np.eye(ANSWERS, 32)
    centres[1] = centres[0] * 0.9 + centres[1] * 0.43
    classes = np.repeat(np.arange(ANSWERS), EACH)
    vectors = centres[classes] + draw.normal(0, 0.05, (len(classes), 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    questions = [
        f"which {'abcdef'[one]} is it, {chr(97 + place % 26)}{chr(97 + place // 26)}"
        for place, one in enumerate(classes)
    ]
    return Stream(questions, vectors.astype(np.float32), classes, [True] * len(classes))


def test_a_fixed_distance_is_wrong_where_answers_lie_near_each_other(stream: Stream) -> None:
    order = shuffled(stream, 1)
    near, far = (replay(stream, order, FIXED[name], 1) for name in ("fixed 0.05", "fixed 0.20 (LiteLLM)"))
    assert near.hits < far.hits
    assert near.wrong <= far.wrong
    assert far.wrong > 0.01


def test_what_is_certified_serves_and_keeps_its_promise(stream: Stream) -> None:
    rules = CacheRules(mode="certified", wrong_per_request=0.03, strict_distance=0.0)
    for seed, order in enumerate((shuffled(stream, 2), drifting(stream, 3))):
        replayed = replay(stream, order, rules, seed)
        assert replayed.hits > 0.2
        assert replayed.wrong <= replayed.worst <= 0.03
        assert replayed.bound <= 0.03
        assert 0 < replayed.checked < 0.1


def test_what_is_not_eligible_is_never_served(stream: Stream) -> None:
    none = Stream(stream.questions, stream.vectors, stream.classes, [False] * len(stream.questions))
    assert replay(none, shuffled(none, 1), FIXED["fixed 0.40 (GPTCache)"], 1).hits == 0


def test_a_wrong_row_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    path.write_text('{"query": "a", "class": "x"}\n{"query": "b"}\n')
    with pytest.raises(OutcomesError, match="line 2"):
        read_stream(path)
    path.write_text("")
    with pytest.raises(OutcomesError, match="no requests"):
        read_stream(path)
