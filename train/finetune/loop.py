"""One worker's training, from the prepared rows to the last step. Knows nothing of Ray: news go to an `Outlet`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from configs.training import JobSpec
from train.finetune.backends import Choice, load
from train.finetune.outcome import Diverged, Outcome, Outlet

SCRATCH = "scratch-"
"""Begins the names of folders beside the prepared rows; those of the killed go at the next start."""


def run_steps(
    spec: JobSpec, choice: Choice, prepared: Path, outlet: Outlet, resume: Path | None = None
) -> Outcome:
    """Train, or go on from the checkpoint `resume`. Raises `DataError`, and what the libraries raise."""
    if choice.backend == "unsloth":
        import unsloth  # noqa: F401  (patches what is imported after it)
    import datasets
    import torch
    import transformers

    from train.finetune.callbacks import Steps, exhausted

    torch.set_num_threads(spec.threads)
    datasets.disable_progress_bars()
    # (TRL tokenises pairs by itself; its cache would be keyed by a code's hash and stay.)
    datasets.disable_caching()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(spec.seed)
    if resume is not None:
        state = json.loads((resume / "trainer_state.json").read_text())
        if exhausted(state["log_history"], spec.recipe.patience):
            return Outcome("early", state["global_step"])
    steps = Steps(spec, outlet)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=prepared.parent) as scratch:
        trainer = make_trainer(spec, choice, prepared, Path(scratch), steps, resume)
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        except Diverged as error:
            return Outcome("failed", trainer.state.global_step, str(error))
        finally:
            trainer.accelerator.free_memory()
    return steps.outcome


def make_trainer(
    spec: JobSpec, choice: Choice, prepared: Path, scratch: Path, steps: Any, resume: Path | None = None
) -> Any:
    """TRL's trainer for the recipe's method."""
    from datasets import load_from_disk
    from transformers import PrinterCallback
    from trl import DPOTrainer, KTOTrainer, SFTTrainer

    from train.finetune.arguments import arguments

    rows = load_from_disk(str(prepared / "train"), keep_in_memory=True)
    held_out = prepared / "validation"
    validation = load_from_disk(str(held_out), keep_in_memory=True) if held_out.is_dir() else None
    if spec.recipe.method == "kto":
        # It goes through its rows in their order.
        rows = rows.shuffle(seed=spec.seed)
    args = arguments(spec, choice, scratch, validated=validation is not None)
    model, tokenizer, adapter = load(spec, choice, resume)
    kind = {"sft": SFTTrainer, "dpo": DPOTrainer, "kto": KTOTrainer}[spec.recipe.method]
    trainer = kind(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[steps],
    )
    # TRL rounds the adapter of a quantized base to bf16, which a checkpoint does not bring back; and small changes
    # to it would be lost. It is small: in fp32 it is exact.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # (It writes every line of progress to the standard output as well.)
    trainer.remove_callback(PrinterCallback)
    return trainer
