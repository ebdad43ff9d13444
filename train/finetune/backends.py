"""What trains, chosen by what is there, and the choice in words.

| backend | where | base weights |
| --- | --- | --- |
| unsloth | CUDA, where the package is installed | NF4, or as they are |
| peft | CUDA or CPU | NF4 where bitsandbytes is installed, else bf16, else fp32 |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from configs.adapters import MANIFEST, read_adapter
from configs.training import JobSpec, Recipe
from train.conversation import DataError
from train.publish.errors import RegistryError
from train.publish.registry import find

Dtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Machine:
    """What there is to train with."""

    cuda: bool
    bf16: bool
    """Whether it computes in bf16 natively: elsewhere that is slower than fp32."""
    unsloth: bool
    bitsandbytes: bool


@dataclass(frozen=True)
class Choice:
    """How a job is trained here. `notes`: (level, message) for the owner."""

    backend: Literal["unsloth", "peft"]
    device: Literal["cuda", "cpu"]
    dtype: Dtype
    nf4: bool
    optimizer: Literal["adamw_8bit", "adamw_torch"]
    notes: tuple[tuple[str, str], ...] = ()


def look(gpu: bool) -> Machine:
    """This process's machine; `gpu`: whether it may use one."""
    import torch

    cuda = gpu and torch.cuda.is_available()
    return Machine(
        cuda=cuda,
        bf16=torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_has_bf16(),
        unsloth=find_spec("unsloth") is not None,
        bitsandbytes=find_spec("bitsandbytes") is not None,
    )


def choose(spec: JobSpec, machine: Machine) -> Choice:
    """The backend. Raises `DataError` where the one that is asked for cannot be had."""
    recipe, notes = spec.recipe, []
    if spec.gpu and not machine.cuda:
        raise DataError("The job is to train on a GPU, and its worker sees no CUDA device.")
    usable = machine.cuda and machine.unsloth
    if spec.backend == "unsloth" and not usable:
        missing = "no CUDA device" if not machine.cuda else "`unsloth` is not installed"
        raise DataError(f"The backend unsloth cannot be had here: {missing}.")
    backend: Literal["unsloth", "peft"] = "unsloth" if usable and spec.backend != "peft" else "peft"
    if backend == "unsloth" and recipe.method != "sft" and spec.backend == "auto":
        backend = "peft"
    nf4 = recipe.quantize == "nf4" and machine.bitsandbytes
    if recipe.quantize == "nf4" and not nf4:
        notes.append(("warning", "bitsandbytes is not installed: the base model trains unquantized, not in NF4"))
    optimizer = recipe.optimizer
    if optimizer == "adamw_8bit" and not machine.bitsandbytes:
        optimizer = "adamw_torch"
        notes.append(("warning", "bitsandbytes is not installed: AdamW keeps its state in 32 bits, not in 8"))
    dtype: Dtype = "bfloat16" if machine.bf16 else "float16" if machine.cuda else "float32"
    device: Literal["cuda", "cpu"] = "cuda" if machine.cuda else "cpu"
    why = "" if backend == "unsloth" else _why_not_unsloth(spec, machine)
    base = f"base in {'NF4, computed in ' if nf4 else ''}{dtype}"
    notes.insert(0, ("info", f"backend {backend} on {device.upper()}{why}; {base}; optimizer {optimizer}"))
    return Choice(backend, device, dtype, nf4, optimizer, tuple(notes))


def on_cpu_as_fp32(choice: Choice) -> Choice:
    """The same in fp32: exact, whatever the machine computes fast."""
    return replace(choice, dtype="float32")


def load(spec: JobSpec, choice: Choice, resume: Path | None = None) -> tuple[Any, Any, Any]:
    """(model, tokenizer, PEFT configuration); the last is None where the model has its adapter already.

    What goes on from the checkpoint `resume` needs no parent: another may have taken its name.

    Raises what the libraries raise, and `DataError`.
    """
    if choice.backend == "unsloth":
        return _load_unsloth(spec, choice, resume)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    dtype = getattr(torch, choice.dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if choice.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=choice.device == "cuda",
        )
    if choice.device == "cuda":
        options["device_map"] = {"": torch.cuda.current_device()}
    model = AutoModelForCausalLM.from_pretrained(spec.weights, **options)
    _keep_trainable(model)
    tokenizer = AutoTokenizer.from_pretrained(spec.weights)
    parent = _begin(spec, resume)
    if parent is None:
        return model, tokenizer, _lora(spec.recipe)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, parent, is_trainable=True), tokenizer, None


def _begin(spec: JobSpec, resume: Path | None) -> Path | None:
    return resume if resume is not None and spec.parents else parent_folder(spec)


def parent_folder(spec: JobSpec) -> Path | None:
    """The PEFT files of the adapter that the job goes on from. Raises `DataError` where it is gone."""
    if not spec.parents:
        return None
    try:
        folder = find(spec.adapters, spec.parents[-1])
        manifest = read_adapter(folder)
    except RegistryError as error:
        raise DataError(f"The adapter that the job goes on from is not there any more: {error}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"The adapter {spec.parents[-1]} has no {MANIFEST} that can be read: {error}") from error
    if manifest.base != spec.base:
        raise DataError(f"The adapter {manifest.name} is one of {manifest.base}, not of {spec.base}.")
    exported = manifest.exports.get("peft")
    return folder / (exported.path if exported else "peft")


def _lora(recipe: Recipe) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _keep_trainable(model: Any) -> None:
    # At the first evaluation bitsandbytes 0.50 repacks 4-bit weights for AVX-512, from which no gradient comes
    # back.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _load_unsloth(spec: JobSpec, choice: Choice, resume: Path | None) -> tuple[Any, Any, Any]:
    # (It patches transformers and TRL, so it has to be imported before them: see loop.py.)
    import torch
    from unsloth import FastLanguageModel

    recipe, parent = spec.recipe, _begin(spec, resume)
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(parent or spec.weights),
        max_seq_length=recipe.max_length,
        dtype=getattr(torch, choice.dtype),
        load_in_4bit=choice.nf4,
        local_files_only=True,
    )
    if parent is None:
        model = FastLanguageModel.get_peft_model(
            model,
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.targets),
            bias="none",
            use_gradient_checkpointing="unsloth",
            random_state=spec.seed,
            max_seq_length=recipe.max_length,
        )
    return model, tokenizer, None


def _why_not_unsloth(spec: JobSpec, machine: Machine) -> str:
    if spec.backend == "peft":
        return " (as asked)"
    if not machine.cuda:
        return " (unsloth needs CUDA)"
    if not machine.unsloth:
        return " (unsloth is not installed)"
    return f" (unsloth is used for sft, not for {spec.recipe.method})"


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
