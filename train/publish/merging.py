"""Base and adapter as one model: PEFT adds the adapter's changes to the base's own weights.

Whatever the base was quantized to while it trained, it is merged into as it lies on disk (bf16): the sum is
computed wide and rounded once.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from train.publish.errors import ExportError
from train.publish.gguf_names import read_config
from train.publish.lora import Adapter

_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


def merge(weights: str, peft: str, target: str) -> dict[str, Any]:
    """Fill the folder `target`, in one step: weights, config, tokenizer, chat template. Raises `ExportError`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, folder = Path(weights), Path(target)
    adapter = Adapter.read(Path(peft))
    if "quantization_config" in read_config(base):
        raise ExportError(f"{base.name} is quantized: an adapter is merged into whole weights only")
    staged = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", device_map={"": "cpu"})
    if _changes_embeddings(adapter):
        untie(model)
    tuned = PeftModel.from_pretrained(model, peft, torch_device="cpu")
    try:
        merged = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ExportError(f"it cannot be merged: {error}") from None
    with torch.no_grad():
        merged.save_pretrained(staged)
    for pattern in _TOKENIZER:
        for file in base.glob(pattern):
            shutil.copy2(file, staged / file.name)
    shutil.rmtree(folder, ignore_errors=True)
    staged.replace(folder)
    return {}


def untie(model: Any) -> None:
    """Give the output a matrix of its own: a change of the one must not change the other."""
    import torch

    if not model.config.get_text_config().tie_word_embeddings:
        return
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(output.weight.detach().clone())


def _changes_embeddings(adapter: Adapter) -> bool:
    given = [adapter.config.get(key) or () for key in ("target_modules", "modules_to_save")]
    named = [name for some in given for name in ([some] if isinstance(some, str) else some)]
    return any(part in name for name in named for part in ("lm_head", "embed_tokens"))
