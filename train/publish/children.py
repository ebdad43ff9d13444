"""A function in a process of its own, within limits of memory and time.

A model that is loaded leaves nothing behind then, and one that crashes, swells or hangs takes no job with it.
What is called takes and returns what JSON can hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from train.publish.errors import ExportError

SECRET = ("GROUPQWEN_JUDGE_KEY",)
"""Of this process's environment, what no child needs to know."""
_DIE_WITH_PARENT = 1
_LOOK_EVERY = 0.2
"""Seconds between two looks at a child's memory."""


@dataclass(frozen=True)
class Limits:
    """Of a child and of all that it starts."""

    memory_mb: int
    """Resident. (Address space would be no measure: frameworks reserve much that they never use.)"""
    seconds: float


def limits_for(model_bytes: int) -> Limits:
    """For work on a model of this size: several copies of it, in a wider type, and a slow disk."""
    return Limits(memory_mb=4096 + 6 * (model_bytes >> 20), seconds=600 + 240 * (model_bytes >> 30))


def call(function: str, given: dict[str, Any], limits: Limits, paths: tuple[Path, ...] = ()) -> dict[str, Any]:
    """`module:function(**given)` in a child; `paths` come first among those it imports from.

    Raises `ExportError`: what the function raised, or how the child ended.
    """
    with tempfile.TemporaryDirectory(prefix="groupqwen-child-") as scratch:
        folder = Path(scratch)
        (folder / "call.json").write_text(json.dumps({"function": function, "given": given}))
        ended = _run(folder, limits, paths)
        try:
            said = json.loads((folder / "said.json").read_text())
        except (OSError, ValueError):
            raise ExportError(ended or _last_words(folder)) from None
    if "error" in said:
        raise ExportError(str(said["error"]))
    result: dict[str, Any] = said["result"]
    return result


def _run(folder: Path, limits: Limits, paths: tuple[Path, ...]) -> str:
    """Why it was stopped; empty: it ended by itself."""
    root = str(Path(__file__).parents[2])
    searched = [*map(str, paths), root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in SECRET},
        "PYTHONPATH": os.pathsep.join(searched),
        "TOKENIZERS_PARALLELISM": "false",
        # All that is needed is on this machine.
        "HF_HUB_OFFLINE": "1",
    }
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "train.publish.children", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            return _watch(child, limits)
        finally:
            _end(child)


def _watch(child: subprocess.Popen[bytes], limits: Limits) -> str:
    until = time.monotonic() + limits.seconds
    while True:
        try:
            child.wait(_LOOK_EVERY)
            return ""
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > until:
            return f"it took more than {limits.seconds:.0f} s and was stopped"
        if (taken := _resident(child.pid) >> 20) > limits.memory_mb:
            return f"it took {taken} MiB of memory and was stopped (its limit: {limits.memory_mb} MiB)"


def _resident(pid: int) -> int:
    """Bytes of memory that a process and all below it take."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    taken = 0
    for one in family:
        try:
            taken += one.memory_info().rss
        except psutil.Error:
            continue
    return taken


def _end(child: subprocess.Popen[bytes]) -> None:
    # The whole session: also what it has started and left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _last_words(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    return "its process died" + (f": {lines[-1][:500]}" if lines else " without a word")


def main(folder: Path) -> None:
    """The child's side. On Linux it ends with its parent, also where that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    asked = json.loads((folder / "call.json").read_text())
    module, _, name = asked["function"].partition(":")
    try:
        said: dict[str, Any] = {"result": getattr(importlib.import_module(module), name)(**asked["given"])}
    except ExportError as error:
        said = {"error": str(error)}
    staged = folder / "said.json.new"
    staged.write_text(json.dumps(said))
    staged.replace(folder / "said.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
