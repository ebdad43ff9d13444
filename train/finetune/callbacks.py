"""What happens beside the steps: progress, the guard against divergence, early stopping, stopping when told to.

One callback, because order matters: a step is reported, evaluated, perhaps the last one, and then saved.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from configs.training import JobSpec
from train.finetune.outcome import NO_LOSS, Diverged, Outcome, Outlet, Told

TELL_EVERY = 1.0
"""Seconds: news wait so long for others to go with."""


def exhausted(history: list[dict[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` looks at the validation set found nothing better than one before them.

    Of the trainer's own history, which is in every checkpoint: so a resumed run stops where an uninterrupted one
    does.
    """
    losses: list[float] = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])


class Steps(TrainerCallback):  # type: ignore[misc]
    """Reports to `outlet`, and ends training when it is time. `outcome` is right once training has returned."""

    def __init__(self, spec: JobSpec, outlet: Outlet) -> None:
        self._recipe = spec.recipe
        self._outlet = outlet
        self._news: list[Told] = []
        self._told_at = time.monotonic()
        self._tell_now = False
        self._begun = 0.0
        self._busy = 0.0
        self._step_seconds = 0.0
        self._tokens = 0.0
        self._loss = NO_LOSS
        self._end: str = "done"
        self._step = 0

    @property
    def outcome(self) -> Outcome:
        return Outcome(self._end, self._step)  # type: ignore[arg-type]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Before weights change: once they are no numbers, they stay so. (fp16's scaler skips such steps.)"""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if args.fp16 or not gradients:
            return
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            raise Diverged(_diverged(state.global_step + 1, "a gradient"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = time.monotonic() - self._begun
        self._busy += seconds
        # (A step's usual time, of which the first, slow ones are forgotten.)
        self._step_seconds = 0.9 * self._step_seconds + 0.1 * seconds if self._step_seconds else seconds
        self._loss = NO_LOSS
        self._step = state.global_step
        stop, self._tell_now = _together(
            args, self._outlet.should_stop(), time.monotonic() - self._told_at > TELL_EVERY
        )
        if stop:
            control.should_training_stop = control.should_save = True
            self._end = "stopped" if state.global_step < state.max_steps else "done"
        if control.should_save:
            # A curve goes on from a checkpoint as if nothing had been.
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise Diverged(_diverged(state.global_step, "the loss"))
        tokens = float(logs.get("num_tokens", 0.0))
        self._news.append(
            (
                "progress",
                {
                    "step": state.global_step,
                    "steps": state.max_steps,
                    "epoch": round(state.epoch or 0.0, 4),
                    "loss": logs["loss"],
                    "learning_rate": logs["learning_rate"],
                    "grad_norm": logs.get("grad_norm"),
                    "tokens_per_second": round((tokens - self._tokens) / max(self._busy, 1e-9), 1),
                    "memory_mb": memory_mb(),
                    "eta_seconds": round((state.max_steps - state.global_step) * self._step_seconds, 1),
                },
            )
        )
        self._tokens, self._busy = tokens, 0.0
        if self._tell_now and not control.should_save:
            self._tell()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        self._loss = (metrics or {})["eval_loss"]
        self._news.append(("evaluation", {"step": state.global_step, "loss": self._loss}))
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        if self._loss <= min(losses, default=self._loss):
            control.should_save = True
        if exhausted(state.log_history, self._recipe.patience) and not control.should_training_stop:
            control.should_training_stop = control.should_save = True
            self._end = "early"

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._tell(folder)
        shutil.rmtree(folder, ignore_errors=True)

    def _tell(self, checkpoint: Path | None = None) -> None:
        self._outlet.tell(self._news, checkpoint, self._loss)
        self._news = []
        self._told_at = time.monotonic()
        self._tell_now = False


def memory_mb() -> int:
    """What this process takes at most of the GPU, or now of the machine."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated() >> 20)
    return int(psutil.Process().memory_info().rss >> 20)


def _together(args: Any, *flags: bool) -> tuple[bool, ...]:
    # All workers must do the same at the same step: what one of them wants, all do.
    if args.world_size < 2:
        return flags
    wanted = torch.tensor([float(flag) for flag in flags], device=args.device)
    torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX)
    return tuple(flag > 0 for flag in wanted.tolist())


def _diverged(step: int, what: str) -> str:
    return (
        f"Training diverged at step {step}: {what} is no number any more. The last checkpoint before it is kept. "
        "A lower learning_rate or max_grad_norm, or more warmup, helps."
    )
