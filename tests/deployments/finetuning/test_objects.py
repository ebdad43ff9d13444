"""Jobs as OpenAI's clients see them."""

from __future__ import annotations

import pytest

from configs.training import JobEvent
from deployments.finetuning.job import STATES, State, StoredFile
from deployments.finetuning.objects import (
    MOST_POINTS,
    checkpoint_object,
    curve_of,
    event_object,
    file_object,
    is_over,
    job_object,
)
from tests.deployments.finetuning.test_states import job


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_one_of_openai_s(state: State) -> None:
    shown = job_object(job(state=state, error="out of memory", finished=9.9))
    assert shown.status == state
    assert (shown.fine_tuned_model == "ft:small:habit") is (state == "succeeded")
    assert (shown.error is not None and shown.error.message == "out of memory") is (state == "failed")


def test_what_was_asked_is_shown_again() -> None:
    hyperparameters = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5, "beta": "auto"}
    asked = {
        "model": "ft:small:older",
        "training_file": "file-1",
        "metadata": {"a": "b"},
        "hyperparameters": hyperparameters,
        "method": {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}},
    }
    shown = job_object(job(asked=asked))
    assert (shown.model, shown.training_file, shown.metadata) == ("ft:small:older", "file-1", {"a": "b"})
    assert shown.hyperparameters.n_epochs == 2
    assert shown.method is not None and shown.method.dpo is not None
    assert shown.method.dpo.hyperparameters is not None
    assert shown.method.dpo.hyperparameters.learning_rate_multiplier == 0.5


def test_when_it_will_be_done_is_told_while_it_runs() -> None:
    progress = {"at": 100.0, "eta_seconds": 50.5}
    assert job_object(job(state="running", progress=progress)).estimated_finish == 150
    assert job_object(job(state="succeeded", progress=progress)).estimated_finish is None


def event(seq: int, kind: str, **data: object) -> JobEvent:
    return JobEvent.model_validate({"seq": seq, "at": 5.5, "kind": kind, "data": data})


@pytest.mark.parametrize(
    ("one", "level", "message", "kind"),
    [
        (event(0, "state", state="failed", error="NaN"), "error", "The job has failed: NaN", "message"),
        (event(1, "state", state="running"), "info", "The job runs", "message"),
        (event(2, "log", level="warning", message="cut"), "warn", "cut", "message"),
        (event(3, "progress", step=2, steps=9, loss=1.5), "info", "Step 2/9: training loss=1.5000", "metrics"),
        (event(4, "evaluation", step=2, loss=None), "info", "Step 2: validation loss=?", "metrics"),
        (event(5, "checkpoint", step=2), "info", "Checkpoint at step 2", "message"),
        (event(6, "stage", stage="export"), "info", "Stage: export", "message"),
    ],
)
def test_events_are_told_in_words(one: JobEvent, level: str, message: str, kind: str) -> None:
    shown = event_object("ftjob-1", one)
    assert (shown.level, shown.message, shown.type) == (level, message, kind)
    assert shown.id == f"ftjob-1-event-{one.seq}"


def test_a_checkpoint_has_the_losses_of_its_time() -> None:
    losses = {"train_loss": 3.0, "valid_loss": 3.5}
    shown = checkpoint_object(job(), event(5, "checkpoint", step=25), losses)
    assert shown.step_number == 25
    assert (shown.metrics.train_loss, shown.metrics.valid_loss) == (3.0, 3.5)
    assert shown.fine_tuned_model_checkpoint == "ft:small:habit:step-25"


def test_of_a_step_that_was_done_twice_the_later_counts() -> None:
    events = [event(0, "progress", step=1, loss=3.0), event(1, "progress", step=2, loss=2.0)]
    events += [event(2, "progress", step=2, loss=1.9), event(3, "evaluation", step=2, loss=None)]
    assert curve_of(events) == {"training": [[1, 3.0], [2, 1.9]], "validation": []}


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    curve = curve_of([event(n, "progress", step=n, loss=1.0) for n in range(12_345)])["training"]
    assert len(curve) <= MOST_POINTS and curve[-1][0] == 12_344


def test_nothing_comes_after_the_last_event_of_one_that_has_ended() -> None:
    ended = job(state="failed", last_seq=7)
    assert is_over(ended, 7) and not is_over(ended, 6)
    assert not is_over(job(state="running", last_seq=7), 7)


def test_a_file_is_openai_s() -> None:
    shown = file_object(StoredFile("file-1", "key_1", 12.5, "chats.jsonl", 10, 2, "0" * 64))
    assert shown.to_dict()["key_id"] == "key_1", "who sees everybody's sees whose it is"
    assert (shown.filename, shown.bytes, shown.purpose, shown.created_at) == ("chats.jsonl", 10, "fine-tune", 12)
