"""Run a fine-tuning job, or go on with it: `python -m train.run FOLDER` (configs/training.py says what is in it).

Its stages are prepare, train, export, evaluate and publish. What an earlier run has finished of prepare and train
is not done again; what comes after is quick, and is. A job that has published does nothing more.

It exits with 0 (done), 1 (failed), 3 (stopped: by a signal, or by the file `cancel`, which whoever wants the job
to go on removes first) or 4 (another process runs the job).
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from configs.adapters import AdapterManifest
from configs.training import CLEARED, DONE, FAILED, RUN_LOCK, RUNS_ALREADY, STOPPED, EventLog, JobSpec, read_spec
from train.conversation import DataError
from train.publish.errors import ExportError, RegistryError
from train.publish.registry import made_by

T = TypeVar("T")

RESULT = "result"
MOST_ERROR = 4000
"""Characters of a traceback in an event."""


class Failed(Exception):
    """The job failed; the text says why."""


class Stopped(Exception):
    """The job was told to stop."""


def run(folder: Path) -> int:
    """Do what is left of the job; returns the exit status. Raises `OSError` where its folder cannot be read."""
    folder = folder.absolute()
    spec = read_spec(folder)
    try:
        with FileLock(folder / RUN_LOCK, timeout=0):
            return _run(spec, folder)
    except Timeout:
        print(f"The job {spec.id} runs already.", file=sys.stderr)
        return RUNS_ALREADY


def _run(spec: JobSpec, folder: Path) -> int:
    events = EventLog(folder)
    if (known := made_by(spec.adapters, spec.id)) is not None:
        if _last_state(folder) != "succeeded":
            events.add("state", state="succeeded", model=known.model)
        return DONE
    if (folder / CLEARED).exists():
        gone = "it ended long ago and its checkpoints were removed: start a new one"
        events.add("state", state="failed", error=gone)
        return FAILED
    events.add("state", state="running")
    try:
        with _signals(folder) as guard:
            published = _stages(spec, folder, events, guard)
    except Stopped:
        events.add("state", state="stopped")
        return STOPPED
    except (Failed, DataError, ExportError, RegistryError) as error:
        events.add("state", state="failed", error=str(error))
        return FAILED
    # Whatever else a stage raises is the job's error, not the end of who runs it.
    except Exception as error:
        events.add("log", level="error", message=traceback.format_exc()[-MOST_ERROR:])
        events.add("state", state="failed", error=f"{type(error).__name__}: {_last_line(error)}")
        return FAILED
    events.add("state", state="succeeded", model=published.model)
    return DONE


class Guard:
    """Whether the job is to stop, and how: training ends at its next step, other stages at once."""

    def __init__(self, folder: Path) -> None:
        from train.finetune.resume import STOP

        self._folder = folder
        self._stop = folder / STOP
        self._stop.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._stop.unlink(missing_ok=True)
        self._at_once = True

    def on_signal(self, number: int, frame: object) -> None:
        self._stop.touch()
        if self._at_once:
            raise Stopped

    def check(self) -> None:
        """Raises `Stopped`."""
        from train.finetune.resume import wants_stop

        if wants_stop(self._folder):
            raise Stopped

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Signals wait for `check`."""
        self._at_once = False
        try:
            yield
        finally:
            self._at_once = True


@contextmanager
def _signals(folder: Path) -> Iterator[Guard]:
    guard = Guard(folder)
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    before = {number: signal.signal(number, guard.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield guard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stages(spec: JobSpec, folder: Path, events: Any, guard: Guard) -> AdapterManifest:
    from train.finetune.loop import SCRATCH
    from train.finetune.resume import PREPARED, STORAGE, TRAINED
    from train.format.pinning import pin
    from train.format.prepare import prepare, told

    guard.check()
    if not (folder / TRAINED).is_dir():
        events.add("stage", stage="prepare")
        spec = pin(spec, folder)
        report = prepare(spec.dataset, spec.weights, spec.recipe, folder / PREPARED)
        for level, message in told(report):
            events.add("log", level=level, message=message)
        guard.check()
        for left in (folder / STORAGE).glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        events.add("stage", stage="train")
        with guard.undisturbed():
            _train(spec, folder, guard)
    spec = pin(spec, folder)
    guard.check()
    target = folder / RESULT
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    return _finish(spec, folder / TRAINED, target, events, guard)


def _train(spec: JobSpec, folder: Path, guard: Guard) -> None:
    from train.finetune.cluster import cluster
    from train.finetune.trainer import fit

    with cluster(spec):
        # (Ray has handlers of its own for the signals.)
        for number in (signal.SIGTERM, signal.SIGINT) if _in_main_thread() else ():
            signal.signal(number, guard.on_signal)
        outcome = _in_thread(lambda: fit(spec, folder))
    if outcome.end == "failed":
        raise Failed(outcome.error or "training failed")
    if outcome.end == "stopped":
        raise Stopped


def _finish(spec: JobSpec, peft: Path, target: Path, events: Any, guard: Guard) -> AdapterManifest:
    from train.publish.exporting import export_adapter
    from train.publish.registry import publish

    events.add("stage", stage="export")
    exports = export_adapter(spec, peft, target, events.add)
    metrics: dict[str, float] = {}
    gate = None
    if spec.evaluate:
        from train.evaluate.evaluation import evaluate

        guard.check()
        events.add("stage", stage="evaluate")
        evaluation = evaluate(spec, target, events.add)
        # (JSON knows no infinity; the gate has seen it, and refused.)
        metrics = {name: value for name, value in evaluation.metrics.items() if math.isfinite(value)}
        gate = evaluation.gate
    guard.check()
    events.add("stage", stage="publish")
    with guard.undisturbed():
        return publish(spec, target, exports, metrics, gate)


def _in_thread(work: Callable[[], T]) -> T:
    # In the main thread Ray Train would take Ctrl-C for itself, and leave no checkpoint.
    done: list[T] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if failed:
        raise failed[0]
    return done[0]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _last_state(folder: Path) -> str | None:
    from configs.training import read_events

    return next((e.data["state"] for e in reversed(list(read_events(folder))) if e.kind == "state"), None)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1][:1000]


def main() -> None:
    """`python -m train.run FOLDER`."""
    if len(sys.argv) != 2:
        sys.exit("python -m train.run FOLDER")
    logging.basicConfig(level=logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        status = run(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"The job cannot be run: {error}")
    sys.exit(status)


if __name__ == "__main__":
    main()
