"""What vLLM is started with, from the catalog, the profile and the plan. Pure: imports neither Ray nor vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.catalog import VariantSpec, VllmOptions
from configs.planner import Plan, Row
from configs.profile import ServedVariant

VLLM_START_SECONDS = 30.0
"""A guess at what vLLM's processes take beside the weights, until Residency has seen one come."""

CPU_ENVIRONMENT = {
    # Its own binding gives each model whole cores and keeps one back; here several models share few cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Compiling a sampler that few requests use (log-probabilities) would hold all others up for 20 s.
    "TORCH_COMPILE_DISABLE": "1",
    # It would otherwise announce the machine's address, and listen there.
    "VLLM_HOST_IP": "127.0.0.1",
}

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class VllmStart:
    """Everything that decides how one variant runs. `folder`: its weights, within the home of the node that it
    runs on. `reserves`: what Ray reserves for it (`Plan.reserves`)."""

    name: str
    folder: Path
    arguments: dict[str, Any]
    environment: dict[str, str]
    reserves: dict[str, Any]
    sleep_level: int

    def llm_config(self, home: Path) -> dict[str, Any]:
        """The fields of Ray's `LLMConfig` on a node with this home."""
        bundle = {"CPU": self.reserves["num_cpus"], **self.reserves["resources"]}
        if gpus := self.reserves["num_gpus"]:
            bundle["GPU"] = gpus
        return {
            "model_loading_config": {"model_id": self.name, "model_source": str(home / self.folder)},
            "engine_kwargs": self.arguments,
            "placement_group_config": {"bundles": [bundle]},
            "runtime_env": {"env_vars": self.environment},
        }


def sleeps(plan: Plan, row: Row, spec: VariantSpec) -> bool:
    """Whether it goes to sleep when it leaves the card; without one vLLM knows no sleep, and ends."""
    wanted = (spec.vllm or VllmOptions()).enable_sleep_mode
    return plan.profile.machine.accelerator == "cuda" and not row.resident and wanted


def vllm_start(row: Row, plan: Plan, spec: VariantSpec, served: ServedVariant, folder: Path) -> VllmStart:
    """The start of one line of the plan: all of its memory follows from that line."""
    options = spec.vllm or VllmOptions()
    cuda = plan.profile.machine.accelerator == "cuda"
    given = options.model_dump(exclude_none=True, exclude={"enable_sleep_mode"})
    arguments = {
        **given,
        "enable_auto_tool_choice": options.tool_call_parser is not None,
        "enable_prompt_tokens_details": True,
        # It fetches nothing, whatever gets to it; an empty list would allow everything.
        "allowed_media_domains": ["nowhere.invalid"],
        "max_model_len": served.context,
        "max_num_seqs": served.parallel,
        "kv_cache_memory_bytes": row.kv_mb * 2**20,
        "kv_cache_dtype": "auto" if served.kv_dtype == "f16" else "fp8",
        "enable_sleep_mode": sleeps(plan, row, spec),
    }
    environment = dict(ENVIRONMENT)
    if cuda:
        arguments["gpu_memory_utilization"] = plan.share(row) / row.replicas
    else:
        arguments |= {"enforce_eager": True, "dtype": "bfloat16"}
        environment |= CPU_ENVIRONMENT | {"OMP_NUM_THREADS": str(served.threads or 1)}
    return VllmStart(
        name=row.variant,
        folder=folder,
        arguments=arguments,
        environment=environment,
        reserves=plan.reserves(row),
        sleep_level=served.sleep_level,
    )
