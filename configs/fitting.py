"""A profile made to fit the machine that it is started on: the threads, files and contexts that it leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from configs.catalog import Catalog, VariantSpec
from configs.machine import cores, cpu_flags, memory_mb
from configs.planner import Plan, lay_out, nearest_plan
from configs.profile import Machine, Profile, ServedVariant
from configs.routing import DeviceClass

MOST_THREADS = 8
"""Beyond this a step of generation waits for memory, not for cores."""


@dataclass(frozen=True)
class Hardware:
    """`memory_mb`: what models live in, MiB. `cores`: physical ones. `flags`: what the CPU can do."""

    memory_mb: int
    cores: int
    flags: frozenset[str]


def this_machine(accelerator: str = "cpu") -> Hardware:
    """What is found here."""
    return Hardware(memory_mb(accelerator), cores(), cpu_flags())


def fit(profile: Profile, catalog: Catalog, head: Hardware) -> tuple[Profile, tuple[str, ...]]:
    """The profile with everything chosen that it leaves open, and what had to give so that it fits, in words. What
    it names stays as it is; done twice, it changes nothing. Raises `ConfigError`."""
    variants: dict[str, ServedVariant] = {}
    changes: tuple[str, ...] = ()
    for device in (None, *profile.nodes):
        part, changed = _fit_node(profile.on(device), catalog, _hardware(profile, device, head))
        variants |= part.variants
        changes += changed
    in_order = {name: variants[name] for name in profile.variants}
    return profile.model_copy(update={"variants": in_order}), changes


def _hardware(profile: Profile, device: DeviceClass | None, head: Hardware) -> Hardware:
    """A node's: as its profile says, and for the head as it is found."""
    machine: Machine = profile.machine if device is None else profile.nodes[device].machine
    found = head if device is None else Hardware(0, 1, frozenset())
    flags = found.flags if machine.cpu_flags is None else machine.cpu_flags
    return Hardware(machine.memory_mb or found.memory_mb, machine.cores or found.cores, flags)


def _fit_node(part: Profile, catalog: Catalog, has: Hardware) -> tuple[Profile, tuple[str, ...]]:
    on_cpu = part.machine.accelerator == "cpu"
    known = part.serving(catalog)
    variants = {}
    for name, served in part.variants.items():
        spec = known.variant(name)
        chosen: dict[str, object] = {}
        if served.threads is None:
            chosen["threads"] = _threads(has.cores, len(part.variants)) if on_cpu else 1
        if served.quantization is None and on_cpu and spec.engine == "llama.cpp":
            chosen["quantization"] = _file(spec, has.flags)
        variants[name] = served.model_copy(update=chosen)
    chosen_for = part.model_copy(update={"variants": variants})
    plan: Plan = lay_out(chosen_for, catalog, has.memory_mb)
    if plan.fits or part.machine.memory_mb or not on_cpu:
        return chosen_for, ()
    nearest = nearest_plan(
        plan, catalog, {name for name, served in part.variants.items() if not served.quantization}
    )
    # Where nothing helps, the plan is refused with its numbers, by whoever makes it.
    return (chosen_for, ()) if nearest is None else (nearest[0].profile, nearest[1])


def _threads(cores: int, variants: int) -> int:
    """Half the cores, where there are several variants: two can then compute at once without spinning on each
    other."""
    return max(1, min(MOST_THREADS, cores if variants == 1 else cores // 2))


def _file(spec: VariantSpec, flags: frozenset[str]) -> str:
    faster = (
        name for name, other in spec.quantizations.items() if other.faster_with and other.faster_with <= flags
    )
    return next(faster, spec.quantization)
