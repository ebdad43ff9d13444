"""A GGUF file as a folder of bf16 safetensors, which vLLM and PEFT read.

`python -m groupqwen.dequantize GGUF FOLDER` is a process of its own, because it takes several times the
model's memory and a training framework.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def dequantize(source: Path, target: Path) -> None:
    """Fill `target`: weights, config, tokenizer and chat template. What an earlier attempt left there goes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(source.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name, dtype=torch.bfloat16)
    # It would be saved as what it is no longer.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    dequantize(Path(sys.argv[1]), Path(sys.argv[2]))
