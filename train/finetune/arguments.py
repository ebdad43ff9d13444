"""A recipe in the words of TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.training import JobSpec
from train.conversation import DataError
from train.finetune.backends import Choice


def arguments(spec: JobSpec, choice: Choice, output: Path, validated: bool) -> Any:
    """An `SFTConfig`, `DPOConfig` or `KTOConfig`. Raises `DataError`."""
    from trl import DPOConfig, KTOConfig, SFTConfig

    recipe = spec.recipe
    common = _common(spec, choice, output, validated)
    if recipe.method == "sft":
        return SFTConfig(
            **common,
            # The rows are tokenised, labelled and cut already.
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            padding_free=recipe.packing,
        )
    if recipe.method == "dpo":
        return DPOConfig(**common, beta=recipe.beta, max_length=recipe.max_length)
    if recipe.batch < 2:
        raise DataError(
            "The recipe's batch must be 2 or more for KTO: it holds answers of a batch against each other."
        )
    return KTOConfig(**common, beta=recipe.beta, max_length=recipe.max_length)


def _common(spec: JobSpec, choice: Choice, output: Path, validated: bool) -> dict[str, Any]:
    recipe, cuda = spec.recipe, choice.device == "cuda"
    return {
        "output_dir": str(output),
        "seed": spec.seed,
        "data_seed": spec.seed,
        "per_device_train_batch_size": recipe.batch,
        "per_device_eval_batch_size": max(recipe.batch, 4),
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        # (Below 1 it is a share of all steps.)
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "optim": choice.optimizer,
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": recipe.evaluate_every,
        "prediction_loss_only": True,
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint_every,
        "logging_strategy": "steps",
        "logging_steps": recipe.report_every,
        # What is no number must be seen: see callbacks.py.
        "logging_nan_inf_filter": False,
        # Recomputing what a GPU has no memory for; a CPU has memory, and no time.
        "gradient_checkpointing": cuda,
        # On a CPU the base is in bf16 already where that is fast, and the adapter stays exact.
        "bf16": cuda and choice.dtype == "bfloat16",
        "fp16": cuda and choice.dtype == "float16",
        "use_cpu": not cuda,
        "ddp_backend": "gloo" if spec.workers > 1 and not cuda else None,
        "dataloader_pin_memory": cuda,
        "disable_tqdm": True,
        "report_to": "none",
    }
