"""A merged model in few bits for vLLM, by llm-compressor (`compressed-tensors` format). Runs in a child.

llm-compressor wants other versions of transformers and compressed-tensors than vLLM 0.29 and TRL do, so that it
cannot be installed beside them. It gets a folder of its own, which comes first on its child's path and changes
nothing for anyone else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from train.conversation import DataError, read_conversations
from train.publish.errors import ExportError

Scheme = Literal["awq", "gptq", "fp8"]
SCHEMES: tuple[Scheme, ...] = ("awq", "gptq", "fp8")
REQUIREMENTS = (
    "llmcompressor==0.14.0.1",
    "compressed-tensors==0.19.0",
    "auto-round==0.15.1",
    "transformers==5.17.0",
)
"""What it needs that the `train` extra does not install, or installs otherwise."""

SAMPLES = 64
"""Conversations by which AWQ and GPTQ see which weights matter."""
SAMPLE_TOKENS = 512

_GROUPS = (128, 64, 32)
"""Those that vLLM's kernels know."""

_STAMP = ".installed"


def is_installed(tools: Path) -> bool:
    """Whether `tools` is what `install` makes."""
    try:
        return (tools / _STAMP).read_text() == " ".join(REQUIREMENTS)
    except OSError:
        return False


def install(tools: Path) -> None:
    """Fill the folder `tools`, in one step, through pip. Raises `ExportError`."""
    if is_installed(tools):
        return
    staged = tools.with_name(f".{tools.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(staged),
        *REQUIREMENTS,
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip said nothing"]
        raise ExportError(f"llm-compressor could not be installed: {words[-1]}")
    (staged / _STAMP).write_text(" ".join(REQUIREMENTS))
    shutil.rmtree(tools, ignore_errors=True)
    staged.replace(tools)


def quantize(merged: str, target: str, scheme: Scheme, dataset: str, threads: int) -> dict[str, Any]:
    """Fill the folder `target`, in one step. Raises `ExportError`."""
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    if not torch.accelerator.is_available():
        _pin_nothing()
    folder = Path(target)
    staged = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(merged)
    samples: dict[str, Any] = {}
    if scheme != "fp8":
        texts = sample_texts(tokenizer, Path(dataset))
        samples = {
            "dataset": _tokenized(tokenizer, texts),
            "num_calibration_samples": len(texts),
            "max_seq_length": SAMPLE_TOKENS,
        }
    oneshot(model=model, recipe=_recipe(scheme, model), **samples)
    model.save_pretrained(staged, save_compressed=True)
    tokenizer.save_pretrained(staged)
    shutil.rmtree(folder, ignore_errors=True)
    staged.replace(folder)
    return {}


def _pin_nothing() -> None:
    """AWQ of llm-compressor 0.14 pins memory for an accelerator also where there is none, which torch refuses."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    IntermediatesCache.pin_memory = lambda *_: None


def _recipe(scheme: Scheme, model: Any) -> Any:
    """All matrices but the output's: that one costs most quality and saves least."""
    from llmcompressor.modifiers.quantization import QuantizationModifier

    if scheme == "fp8":
        return QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"])
    groups = {"group_0": {"targets": ["Linear"], "weights": _four_bits(scheme, model)}}
    if scheme == "gptq":
        from llmcompressor.modifiers.gptq import GPTQModifier

        return GPTQModifier(config_groups=groups, ignore=["lm_head"])
    from llmcompressor.modifiers.transform.awq import AWQModifier

    return [AWQModifier(duo_scaling="both"), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]


def _four_bits(scheme: Scheme, model: Any) -> dict[str, Any]:
    """With the largest groups of weights, of which each has a scale of its own, that fit into all rows."""
    widths = {module.in_features for module in model.modules() if hasattr(module, "in_features")}
    size = next((size for size in _GROUPS if all(width % size == 0 for width in widths)), None)
    if size is None:
        raise ExportError(
            f"its rows of {', '.join(map(str, sorted(widths)))} weights fit no groups of four-bit ones"
        )
    return {"num_bits": 4, "type": "int", "strategy": "group", "group_size": size, "symmetric": scheme == "gptq"}


def sample_texts(tokenizer: Any, dataset: Path) -> list[str]:
    """The first conversations that it was trained on, as the model reads them. Raises `ExportError`."""
    texts: list[str] = []
    try:
        for conversation in islice(read_conversations(dataset / "train.jsonl"), SAMPLES):
            turns = [{"role": message.role, "content": message.content} for message in conversation.messages]
            if tokenizer.chat_template:
                texts.append(tokenizer.apply_chat_template(turns, tokenize=False))
            else:
                texts.append("\n".join(turn["content"] for turn in turns))
    except (OSError, DataError) as error:
        raise ExportError(
            f"{dataset} holds no conversation by which to tell which weights matter: {error}"
        ) from None
    if not texts:
        raise ExportError(f"{dataset} holds no conversation by which to tell which weights matter")
    return texts


def _tokenized(tokenizer: Any, texts: list[str]) -> Any:
    from datasets import Dataset

    rows = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=SAMPLE_TOKENS)
    return Dataset.from_dict({"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]})
