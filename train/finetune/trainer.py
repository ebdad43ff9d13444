"""The driver's side of training: Ray Train, told where checkpoints live and what to do when a worker dies."""

from __future__ import annotations

import os
from pathlib import Path

from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from configs.training import JobSpec
from train.finetune.cluster import worker_environment
from train.finetune.events import ControllerEvents
from train.finetune.outcome import NO_LOSS, Outcome
from train.finetune.resume import RUN, STORAGE, keep_adapter
from train.finetune.worker import train_worker

DEATHS = 4
"""Of workers in one run, after which the job fails. (Running it again goes on.)"""
SHARED_GPU = 0.001
"""As much of a card as a variant asks for that is swapped."""
KEPT = 2
"""Checkpoints: the best, and the last."""


def fit(spec: JobSpec, folder: Path) -> Outcome:
    """Train, or go on from the last checkpoint in the job's storage; keep the best checkpoint's adapter.

    Raises Ray Train's `TrainingFailedError` when workers keep dying.
    """
    validated = (spec.dataset / "validation.jsonl").is_file()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"folder": str(folder)},
        torch_config=TorchConfig(backend="nccl" if spec.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.gpu,
            resources_per_worker=resources(spec),
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=str(folder / STORAGE),
            failure_config=FailureConfig(max_failures=DEATHS),
            checkpoint_config=CheckpointConfig(
                num_to_keep=KEPT,
                checkpoint_score_attribute="validation_loss" if validated else None,
                checkpoint_score_order="min",
            ),
            callbacks=[ControllerEvents(folder)],
            worker_runtime_env={"env_vars": worker_environment(spec)},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    result = trainer.fit()
    outcome = Outcome(**result.return_value)
    if outcome.end in ("done", "early"):
        keep_adapter(best_checkpoint(result), folder)
    return outcome


def resources(spec: JobSpec) -> dict[str, float]:
    """Of a worker. Of a card, a token where the group's variants hold shares of it: a whole one is never free
    there, and what fits is for Residency and the job's queue to say. In a Ray of its own each has a whole one."""
    gpu = SHARED_GPU if os.environ.get("RAY_ADDRESS") else 1.0
    return {"CPU": 0.1, **({"GPU": gpu} if spec.gpu else {})}


def best_checkpoint(result: Result) -> Path:
    """That with the least validation loss; without one, the last."""
    scored = [
        (metrics["validation_loss"], checkpoint)
        for checkpoint, metrics in result.best_checkpoints or []
        if metrics["validation_loss"] < NO_LOSS
    ]
    if scored:
        return Path(min(scored, key=lambda pair: pair[0])[1].path)
    if result.checkpoint is None:
        raise RuntimeError("Training ended without a checkpoint.")
    return Path(result.checkpoint.path)
