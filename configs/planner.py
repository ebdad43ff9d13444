"""What a profile takes of its machine's memory, variant by variant, before anything is started. Pure.

All sizes are MiB. One number follows from the others: a variant's memory is its weights, its KV cache and
its run-time overhead; its share of a GPU is that memory over the card's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from configs.catalog import Catalog, VariantSpec
from configs.document import ConfigError
from configs.placement import there
from configs.profile import Profile, ServedVariant

KV_BYTES = {
    "llama.cpp": {"f16": 2.0, "q8_0": 34 / 32},
    "vllm": {"f16": 2.0, "q8_0": 1.0},
    "remote": {"f16": 0.0, "q8_0": 0.0},
}
"""Bytes of one value, by engine: llama.cpp's q8_0 keeps 32 values in 34 bytes; in vLLM it is FP8."""

SWAPPED_GPUS = 0.001
"""A trace of the card, so that Ray places a swapped variant beside it and lets its process see it."""

IDLE_PROCESS_MB = 200
"""A variant's process without its model (`groupqwen status` shows 170 to 190 of one that is absent)."""

LEAST_CONTEXT = 2048
"""Shorter than this no context is made to fit."""


@dataclass(frozen=True)
class Row:
    """One variant of the plan."""

    variant: str
    engine: str
    quantization: str
    weights_mb: int
    kv_mb: int
    overhead_mb: int
    context: int
    parallel: int
    kv_dtype: str
    resident: bool
    replicas: int = 1

    @property
    def total_mb(self) -> int:
        return self.replicas * (self.weights_mb + self.kv_mb + self.overhead_mb)


@dataclass(frozen=True)
class Plan:
    """`budget_mb`: what the models may take together at any instant."""

    profile: Profile
    memory_mb: int
    budget_mb: int
    rows: tuple[Row, ...]

    @property
    def resident_mb(self) -> int:
        """What is always in memory."""
        return sum(row.total_mb for row in self.rows if row.resident)

    @property
    def largest_swapped_mb(self) -> int:
        return max((row.total_mb for row in self.rows if not row.resident), default=0)

    @property
    def idle_mb(self) -> int:
        """What the processes of swapped variants take beside the one that is in. None of it is a card's."""
        swapped = sum(not row.resident for row in self.rows)
        return 0 if self.profile.machine.accelerator == "cuda" else IDLE_PROCESS_MB * max(0, swapped - 1)

    @property
    def swap_mb(self) -> int:
        """What is Residency's to give: the budget without what is always taken."""
        return self.budget_mb - self.resident_mb - self.idle_mb

    @property
    def needed_mb(self) -> int:
        """The least budget with which every variant can be brought in."""
        return self.resident_mb + self.idle_mb + self.largest_swapped_mb

    @property
    def max_awake(self) -> int | None:
        """How many of those that are swapped may be in memory at once; None: as many as fit."""
        most = self.profile.machine.max_loaded_models
        return None if most is None else most - sum(row.replicas for row in self.rows if row.resident)

    @property
    def fits(self) -> bool:
        places = self.max_awake is None or self.max_awake >= int(self.swaps)
        return places and self.needed_mb <= self.budget_mb

    @property
    def swaps(self) -> bool:
        """Whether Residency is needed at all."""
        return any(not row.resident for row in self.rows)

    @property
    def has_room_twice(self) -> bool:
        """Whether all that is kept always fits a second time: while a rollout replaces it."""
        limited = self.profile.machine.max_loaded_models is not None
        return not limited and self.needed_mb + self.resident_mb <= self.budget_mb

    def num_gpus(self, row: Row) -> float:
        """What Ray reserves of the card: its share for one that is kept always; for one that is swapped next to
        nothing, because its memory is Residency's to give."""
        if self.profile.machine.accelerator != "cuda":
            return 0.0
        return self.share(row) / row.replicas if row.resident else SWAPPED_GPUS

    def reserves(self, row: Row) -> dict[str, Any]:
        """What Ray reserves for a replica of it: `ray_actor_options`. Other machines offer no CPU of their own, so
        that nothing lands there that was not sent."""
        served = self.profile.variants[row.variant]
        return {
            "num_cpus": served.num_cpus if served.node is None else 0,
            "num_gpus": self.num_gpus(row),
            "resources": there(served.node),
        }

    def share(self, row: Row) -> float:
        """The variant's share of the card, rounded up to a hundredth: `num_gpus`, and for vLLM its
        `gpu_memory_utilization`."""
        return min(1.0, math.ceil(100 * row.total_mb / self.memory_mb) / 100)


class PlanRefused(ConfigError):
    """It cannot fit. `nearest`: the profile with the fewest changes that does, or None; `changes` says them."""

    def __init__(self, message: str, nearest: Plan | None, changes: tuple[str, ...]) -> None:
        super().__init__(message)
        self.nearest = nearest
        self.changes = changes


def kv_mb(spec: VariantSpec, served: ServedVariant) -> int:
    """Keys and values of the whole pool."""
    per_token = spec.architecture.kv_bytes_per_token(KV_BYTES[spec.engine][served.kv_dtype])
    return math.ceil(per_token * served.pool_tokens / 2**20)


def row_of(name: str, spec: VariantSpec, served: ServedVariant) -> Row:
    """One variant's line of the plan."""
    weights = spec.weights_mb
    return Row(
        variant=name,
        engine=spec.engine,
        quantization=spec.quantization,
        weights_mb=weights,
        kv_mb=kv_mb(spec, served),
        overhead_mb=max(0, spec.memory_mb - weights),
        context=served.context,
        parallel=served.parallel,
        kv_dtype=served.kv_dtype,
        resident=served.keep == "always",
        replicas=served.replicas,
    )


def lay_out(profile: Profile, catalog: Catalog, memory_mb: int) -> Plan:
    """The plan, whether it fits or not. `memory_mb` holds where the profile does not say what its machine has."""
    machine, catalog = profile.machine, profile.serving(catalog)
    memory = machine.memory_mb or memory_mb
    budget = memory - machine.reserve_mb
    rows = tuple(row_of(name, catalog.variant(name), served) for name, served in profile.variants.items())
    return Plan(profile, memory, min(budget, machine.max_memory_mb or budget), rows)


def make_plan(profile: Profile, catalog: Catalog, memory_mb: int) -> Plan:
    """The plan. Raises `PlanRefused`, with the nearest plan that fits, where it cannot hold."""
    plan = lay_out(profile, catalog, memory_mb)
    if plan.fits:
        return plan
    nearest = nearest_plan(plan, catalog)
    if nearest is None:
        raise PlanRefused(f"{_refusal(plan)}, and no shorter context or smaller KV cache makes it fit", None, ())
    raise PlanRefused(_refusal(plan), *nearest)


def nearest_plan(
    plan: Plan, catalog: Catalog, open_files: Collection[str] = ()
) -> tuple[Plan, tuple[str, ...]] | None:
    """The plan with the fewest changes that fits, and those changes; None if none does. `open_files`: variants of
    which a smaller file may be taken."""
    known = plan.profile.serving(catalog)
    for changes, changed in _relaxed(plan, known, open_files):
        nearest = lay_out(changed, catalog, plan.memory_mb)
        if nearest.fits:
            return nearest, changes
    return None


def make_plans(profile: Profile, catalog: Catalog, memory_mb: int) -> list[Plan]:
    """A plan for each node, the head's first. Raises `PlanRefused` for the first that cannot hold."""
    return [make_plan(profile.on(device), catalog, memory_mb) for device in (None, *profile.nodes)]


def _refusal(plan: Plan) -> str:
    parts = " + ".join(f"{row.variant} {row.total_mb}" for row in plan.rows if row.resident) or "nothing"
    where = f"profile {plan.profile.name}, {plan.profile.machine.name}"
    message = f"{where}: what is kept always takes {plan.resident_mb} MiB ({parts})"
    if plan.largest_swapped_mb:
        largest = max((row for row in plan.rows if not row.resident), key=lambda row: row.total_mb)
        message += f", the largest that is swapped in beside it {largest.total_mb} MiB ({largest.variant})"
    message += f"; {plan.budget_mb} of {plan.memory_mb} MiB are there"
    most = plan.profile.machine.max_loaded_models
    return message if most is None else f"{message}, for at most {most} models at once"


def _relaxed(
    plan: Plan, catalog: Catalog, open_files: Collection[str]
) -> Iterator[tuple[tuple[str, ...], Profile]]:
    """Ever greater changes, those that cost least first: KV values of 8 bits, shorter contexts (halved up to
    four times), smaller files, and fewer variants that are kept always (the largest is let go first)."""
    largest_first = sorted(plan.rows, key=lambda row: -row.total_mb)
    residents = [row.variant for row in largest_first if row.resident]
    smaller = {name: file for name in open_files if (file := _smallest(catalog.variant(name)))}
    for let_go in range(len(residents) + 1):
        for files in ({}, smaller) if smaller else ({},):
            for halvings in range(5):
                for q8 in (False, True):
                    if let_go or files or halvings or q8:
                        yield _with(plan.profile, residents[:let_go], files, halvings, q8)


def _smallest(spec: VariantSpec) -> str | None:
    """The smallest file of a model, where that is not the one that it is served from."""
    smallest = min(spec.quantizations, key=lambda name: spec.quantizations[name].memory_mb, default=None)
    return smallest if smallest and spec.quantizations[smallest].memory_mb < spec.memory_mb else None


def _with(
    profile: Profile, let_go: list[str], files: dict[str, str], halvings: int, q8: bool
) -> tuple[tuple[str, ...], Profile]:
    changes: list[str] = []
    if q8:
        changes.append("KV cache as q8_0")
    if halvings:
        changes.append(f"contexts divided by {2**halvings}, though none below {LEAST_CONTEXT} tokens")
    if files:
        changes.append(f"smaller files: {', '.join(f'{name} as {file}' for name, file in sorted(files.items()))}")
    if let_go:
        changes.append(f"swapped instead of kept always: {', '.join(let_go)}")
    variants = {}
    for name, served in profile.variants.items():
        context = max(min(served.context, LEAST_CONTEXT), served.context >> halvings)
        pool = max(context, served.pool_tokens >> halvings)
        variants[name] = served.model_copy(
            update={
                "context": context,
                "kv_tokens": pool,
                "kv_dtype": "q8_0" if q8 else served.kv_dtype,
                "quantization": files.get(name, served.quantization),
                "keep": "auto" if name in let_go else served.keep,
                "replicas": 1 if name in let_go else served.replicas,
            }
        )
    return tuple(changes), profile.model_copy(update={"variants": variants})
