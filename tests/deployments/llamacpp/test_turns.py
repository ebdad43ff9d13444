"""How long a request is likely to wait, and to take."""

from __future__ import annotations

import pytest

from deployments.llamacpp.generation import Generation
from deployments.llamacpp.sampling import SamplingOptions
from deployments.llamacpp.turns import Turns


def test_one_tenants_long_queue_delays_another_by_one_of_its_requests() -> None:
    turns = Turns(parallel=2)
    turns.seconds_per_request = 10.0
    for _ in range(8):
        turns.comes("greedy")
    assert turns.wait_of("greedy") == pytest.approx(45.0)
    assert turns.wait_of("other") == pytest.approx(10.0)
    for _ in range(8):
        turns.goes("greedy")
    assert turns.waiting == {} and turns.wait_of("other") == pytest.approx(5.0)


def test_what_was_taken_before_is_expected_again() -> None:
    turns = Turns(parallel=1)
    for _ in range(60):
        turns.took(4.0, 100)
    assert turns.wait(0) == pytest.approx(4.0, rel=0.01)

    def expected(prompt: int, most: int) -> float:
        return turns.expected(Generation([1] * prompt, most, SamplingOptions()))

    assert expected(0, 50) == pytest.approx(2.0, rel=0.01)
    assert expected(0, 10_000) == pytest.approx(4.0, rel=0.01), "no more than is usual"
    assert expected(800, 50) == pytest.approx(6.0, rel=0.01), "reading takes its time too"
