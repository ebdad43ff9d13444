"""How much memory a job takes, roughly: what it asks Residency for. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.catalog import VariantSpec
from configs.finetuning import FinetuningRules
from configs.training import Recipe
from deployments.contract import invalid

BYTES = {"nf4": 0.6, "none": 2.0}
"""Of a parameter of the base, by how it is kept: NF4 with its scales, bf16."""
VOCABULARY = 152_000
"""Of Qwen3; a smaller one takes less."""
LOGIT_BYTES = 6
"""Of one logit: bf16, and its gradient in float32."""
ADAPTER_BYTES = 12
"""Of one parameter that is trained: weight, gradient, the optimizer's two, in the worst of the recipes."""
PROCESS_MB = 1500
"""The process itself: on a card CUDA's context and kernels, else torch."""


@dataclass(frozen=True)
class Loan:
    """What Residency says to who asks for memory: whether it is free by now; else what it waits for, or, where it
    never will be as things are, why, and how much of it other jobs have (MiB): that comes back."""

    free: bool
    impossible: str | None = None
    waits_for: str | None = None
    lent_mb: int = 0


def check_size(
    rules: FinetuningRules, base: VariantSpec, recipe: Recipe, workers: int, room_mb: int | None
) -> None:
    """Raise a 400 for a job that this machine can never carry. `room_mb`: what there is for it; None:
    that is Residency's to say."""
    if workers > rules.most_workers:
        raise invalid(f"A job may have {rules.most_workers} workers here, not {workers}.", param="workers")
    wanted = needed_mb(base, recipe, workers) if rules.memory_mb is None else rules.memory_mb
    if room_mb is not None and wanted > room_mb:
        raise invalid(
            f"It would take about {wanted} MiB, and this machine has {max(0, room_mb)} MiB for it: "
            "choose a smaller base, batch or max_length (the owner can set `finetuning.memory_mb`).",
            code="no_room",
        )


def needed_mb(base: VariantSpec, recipe: Recipe, workers: int) -> int:
    """An estimate for all workers, with gradient checkpointing: weights, adapter, activations and logits."""
    parameters = base.parameters_b * 1e9
    layers = base.architecture.layers
    # A layer of a transformer has about 12 × width² parameters.
    width = math.sqrt(parameters / (12 * layers))
    adapter = 2 * width * recipe.rank * len(recipe.targets) * layers
    tokens = recipe.batch * recipe.max_length
    activations = tokens * width * layers * 2 + tokens * width * 34
    logits = tokens * VOCABULARY * LOGIT_BYTES
    each = parameters * BYTES[recipe.quantize] + adapter * ADAPTER_BYTES + activations + logits
    return workers * (math.ceil(each / 2**20) + PROCESS_MB)
