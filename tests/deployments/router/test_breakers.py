"""When a variant that has failed is asked again, and by how many."""

from __future__ import annotations

from deployments.router.breakers import LONGEST_SECONDS, TRIAL_SECONDS, Breakers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_that_has_failed_rests_and_is_then_tried_by_one_request() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.asked("a")
    assert "a" not in breakers, "nothing is wrong with it"
    breakers.failed("a", 20, "engine")
    assert "a" in breakers and "b" not in breakers and 7 not in breakers
    assert breakers.report() == {"a": {"failures": 1, "cause": "engine", "seconds": 20.0}}
    clock.now = 21
    assert "a" not in breakers, "somebody may try it"
    breakers.asked("a")
    assert "a" in breakers, "somebody does, and the others wait for what comes of it"
    breakers.answered("a")
    assert "a" not in breakers and breakers.report() == {}


def test_each_failure_in_a_row_doubles_the_rest_up_to_a_bound() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    rests = []
    for _ in range(8):
        breakers.failed("a", 20, "stalled")
        rests.append(breakers.report()["a"]["seconds"])
        clock.now += rests[-1] + 1
        breakers.asked("a")
    assert rests == [20, 40, 80, 160, *[LONGEST_SECONDS] * 4]
    breakers.answered("a")
    breakers.failed("a", 20)
    assert breakers.report()["a"]["seconds"] == 20, "what is over is forgotten"


def test_a_trial_that_nobody_hears_of_again_makes_room_for_another() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.failed("a", 20)
    clock.now = 25
    breakers.asked("a")
    clock.now += TRIAL_SECONDS + 1
    assert "a" not in breakers


def test_a_rest_of_no_time_is_none() -> None:
    breakers = Breakers(Clock())
    breakers.failed("a", 0)
    assert "a" not in breakers
