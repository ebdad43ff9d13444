"""Keys that fine-tuning jobs ask the group with, seen from who looks after the jobs. (A job makes its own when it
begins: `groupqwen/training/prepare.py`.)"""

from __future__ import annotations

import logging
from collections.abc import Container
from dataclasses import dataclass

from configs.home import home
from serve_app.keys import end_job_keys

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class JobKeys:
    """Of this home. What `deployments.finetuning.deployment` is given, which knows of no keys."""

    def end(self, under_way: Container[str]) -> None:
        """Revoke the keys of all jobs but these. Says in the log what stands in the way."""
        try:
            gone = end_job_keys(home().keys, under_way)
        except (OSError, ValueError) as error:
            logger.warning("keys of jobs that have ended still count: %s", error)
            return
        if gone:
            logger.info("keys of jobs that have ended: %s", ", ".join(gone))
