"""A job that the group runs begins here: `python -m groupqwen.training.prepare FOLDER RUNNER`.

Makes the base model's weights as transformers reads them, where they are not there yet, and becomes the runner,
`python -m RUNNER FOLDER`. Beside `train`, which only reads weights, because catalog and downloads are here. Exits
with 1 where there are no weights, after the job's event says why.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.catalog import Catalog, load_catalog
from configs.document import ConfigError
from configs.home import home
from configs.training import EventLog, JobSpec, read_spec
from deployments.budgets.limits import KeyLimits
from groupqwen.client import endpoint_of_the_group
from groupqwen.downloads import DownloadError
from groupqwen.stack.problem import StartProblem
from groupqwen.training.weights import make_weights
from serve_app.keys import create_key

LESS_URGENT = 10
"""Answers come first."""


def prepare(folder: Path) -> int:
    """See to it that the job's weights are there; the exit status."""
    spec = read_spec(folder)
    if (spec.weights / "config.json").is_file():
        return 0
    events = EventLog(folder)
    events.add("state", state="running")
    events.add("stage", stage="prepare")
    events.add("log", level="info", message=f"The weights of {spec.base} are made ready for training")
    try:
        make_weights(home(), load_catalog(), spec.base, spec.weights, spec.base_gguf)
    except (ConfigError, DownloadError, OSError) as error:
        events.add("state", state="failed", error=str(error))
        return 1
    return 0


def judge(spec: JobSpec) -> dict[str, str]:
    """Where the runner's evaluation finds the group, and a key of the job's own: it asks local variants, and does
    nothing else. Who looks after the jobs revokes it when this one has ended, however it ends. It is not in the
    job's environment as Ray knows it, which Ray's dashboard shows, nor in a file or a log."""
    if not spec.evaluate:
        return {}
    try:
        url = endpoint_of_the_group()
        _, secret = create_key(home().keys, f"judge of {spec.id}", job=spec.id, **for_a_judge(load_catalog()))
    except (StartProblem, ConfigError, OSError, ValueError):
        return {}
    return {"GROUPQWEN_JUDGE_URL": url, "GROUPQWEN_JUDGE_KEY": secret}


def for_a_judge(catalog: Catalog) -> dict[str, Any]:
    """All that its key may do. What it asks is the owner's chats and what two models have said to them: nothing of
    it is kept, nothing leaves the group's machines."""
    named = os.environ.get("GROUPQWEN_JUDGE_MODEL")
    local = tuple(name for name, spec in catalog.variants.items() if spec.engine != "remote")
    return {
        "scopes": ("chat",),
        "variants": (named,) if named else local,
        "remote": False,
        # (One at a time; the second is for one that is given up and asked again.)
        "limits": KeyLimits(concurrent=2),
        "query_text": "none",
        "own_cache": True,
    }


def main() -> None:
    folder, runner = sys.argv[1:]
    with suppress(OSError):
        os.nice(LESS_URGENT)
    if status := prepare(Path(folder)):
        sys.exit(status)
    environment = {**os.environ, **judge(read_spec(Path(folder)))}
    os.execve(sys.executable, [sys.executable, "-m", runner, folder], environment)  # noqa: S606


if __name__ == "__main__":
    main()
