"""The Ray that a job trains in: the group's, where the job was started in it, else one of its own for as long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from configs.training import JobSpec

OBJECT_STORE = 128 << 20
"""Bytes. Weights and rows go by files, not through Ray."""
ENVIRONMENT = {
    # The controller takes one report of each worker in so many seconds; a worker waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A worker imports torch and its kin, for which a busy machine takes minutes; by default it is started anew
    # after one.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # Nothing of the owner's leaves the machine: no look-ups at a hub, no usage statistics of Ray, TRL or Unsloth.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def cluster(spec: JobSpec) -> Iterator[None]:
    """Connected to Ray while in it. Raises what `ray.init` raises."""
    os.environ.update(ENVIRONMENT)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # (Short: it holds sockets, whose paths may have 107 characters. The same for a job, so that what a killed run
    # left there goes with the next.)
    folder = Path("/tmp") / f"gq-train-{spec.id[-12:]}"  # noqa: S108
    shutil.rmtree(folder, ignore_errors=True)
    try:
        ray.init(
            address="local",
            num_cpus=max(spec.workers, 1),
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE,
            _temp_dir=str(folder),
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def worker_environment(spec: JobSpec) -> dict[str, str]:
    """Of each worker. (Ray would give it as many threads as CPUs, which are a tenth.)"""
    threads = {name: str(spec.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return ENVIRONMENT | threads
