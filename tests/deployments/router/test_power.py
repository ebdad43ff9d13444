"""What answers take in electricity, by made-up counters: there is none on a machine of the cloud."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.profile import load_profile
from deployments.router import power
from deployments.router.power import JOULES_PER_WH, Meter, cards, counters_of, declared, measured, processor


class Drawn:
    """A machine that has drawn so many joules."""

    def __init__(self) -> None:
        self.joules = 0.0

    def __call__(self) -> float:
        return self.joules


def test_who_runs_alone_is_charged_all_and_who_runs_beside_another_half() -> None:
    drawn = Drawn()
    meter = Meter({"small": drawn, "large": drawn})
    with meter.running("small", "a"):
        drawn.joules += 100
        with meter.running("large", "b"):
            drawn.joules += 100
        drawn.joules += 100
    drawn.joules += 1e6
    assert meter.take("a") == pytest.approx(250 / JOULES_PER_WH)
    assert meter.take("b") == pytest.approx(50 / JOULES_PER_WH)
    assert meter.take("a") is None, "it was taken"


def test_one_that_nobody_measures_is_not_charged() -> None:
    meter = Meter({})
    with meter.running("remote", "a"):
        pass
    assert meter.take("a") is None


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1000)), max_size=60))
def test_shares_add_up_to_what_was_drawn_while_anyone_was_answered(steps: list[tuple[int, float]]) -> None:
    drawn, running, busy = Drawn(), dict[str, object](), 0.0
    meter = Meter({"one": drawn})
    names: set[str] = set()
    for number, (who, joules) in enumerate(steps):
        name = f"{who}-{number}"
        opened = next((each for each in running if each.startswith(f"{who}-")), None)
        if opened is None:
            running[name] = context = meter.running("one", name)
            context.__enter__()
            names.add(name)
        else:
            running.pop(opened).__exit__(None, None, None)  # type: ignore[attr-defined]
        drawn.joules += joules
        busy += joules if running else 0.0
    for context in running.values():
        context.__exit__(None, None, None)  # type: ignore[attr-defined]
    assert sum(meter.take(name) or 0.0 for name in names) * JOULES_PER_WH == pytest.approx(busy, abs=1e-6)


def test_requests_whose_row_was_written_before_they_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "MOST_REMEMBERED", 3)
    meter = Meter({"one": Drawn()})
    for number in range(10):
        with meter.running("one", str(number)):
            pass
    assert [meter.take(str(number)) is None for number in range(10)] == [True] * 7 + [False] * 3


def package(folder: Path, number: int, microjoules: int) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(exist_ok=True)
    (path / "max_energy_range_uj").write_text("1000000")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path


def test_a_processor_is_read_from_its_packages_whose_counters_turn_over(tmp_path: Path) -> None:
    assert processor(tmp_path) is None
    package(tmp_path, 0, 900_000)
    package(tmp_path, 1, 50_000)
    read = processor(tmp_path)
    assert read is not None and read() == pytest.approx(0.95)
    package(tmp_path, 0, 100_000)
    assert read() == pytest.approx(1.15)


def test_cards_are_asked_through_nvidias_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cards("no_such_library") is None
    made_up = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1000 * (handle + 1),
    )
    monkeypatch.setitem(sys.modules, "made_up_nvml", made_up)
    read = cards("made_up_nvml")
    assert read is not None and read() == 3.0
    made_up.nvmlDeviceGetCount = lambda: 0
    assert cards("made_up_nvml") is None
    assert measured(tmp_path) is None or isinstance(measured(tmp_path), Callable)  # type: ignore[arg-type]


def test_the_profile_says_what_is_declared_and_what_runs_elsewhere_costs_none_here() -> None:
    profile = load_profile("cpu")
    drawing = profile.model_copy(update={"machine": profile.machine.model_copy(update={"watts": 65.0})})
    elsewhere = frozenset({"smollm2-135m"})
    counters = counters_of(drawing, elsewhere)
    assert set(counters) == set(profile.variants) - elsewhere
    assert len(set(counters.values())) == 1, "one machine"
    assert declared(None) is None
