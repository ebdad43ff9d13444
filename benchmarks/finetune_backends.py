"""Unsloth beside plain PEFT on a CUDA GPU: tokens/s and peak memory, on a Qwen3 of random weights.

Each trains in a process of its own, because Unsloth patches what the other uses.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.finetune import LINEAR, make_data, make_spec, measure
from benchmarks.machine import console, show
from configs.training import Recipe
from train.finetune.backends import choose, look

QWEN3 = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
"""Qwen3-0.6B's, but for its vocabulary, which is the tokenizer's."""


def make_qwen3(tokenizer: Path, folder: Path) -> Path:
    """Random weights, and a tokenizer that there is."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    known: dict[str, Any] = {"vocab_size": len(words), "eos_token_id": words.eos_token_id}
    model = Qwen3ForCausalLM(Qwen3Config(**QWEN3, **known, pad_token_id=words.pad_token_id))
    model.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def one(backend: str, weights: Path, steps: int, batch: int) -> None:
    """Train with one backend, and print what it took as JSON."""
    if backend == "unsloth":
        import unsloth  # noqa: F401  (patches what is imported after it)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_data(folder / "data")
        recipe = Recipe(
            rank=16,
            targets=LINEAR,
            max_steps=steps,
            batch=batch,
            accumulation=1,
            max_length=512,
            evaluate_every=steps,
        )
        spec = make_spec(weights, folder, recipe, backend=backend, gpu=True)
        got = measure(spec, choose(spec, look(gpu=True)), folder)
    print(json.dumps({"tokens_per_second": got.tokens_per_second, "memory_mb": got.memory_mb, "last": got.last}))


def main(tokenizer: Path, steps: int, batch: int) -> None:
    """Both, one after the other; where there is no CUDA GPU, says so."""
    machine = look(gpu=True)
    if not machine.cuda:
        console.print("No CUDA GPU is seen here: Unsloth cannot train, and there is nothing to compare.")
        return
    if not machine.unsloth:
        console.print("`pip install unsloth` first: it is not installed here.")
        return
    with tempfile.TemporaryDirectory() as scratch:
        weights = make_qwen3(tokenizer, Path(scratch) / "qwen3")
        rows = []
        for backend in ("unsloth", "peft"):
            command = [sys.executable, "-m", "benchmarks.finetune_backends", backend]
            command += [str(weights), str(steps), str(batch)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                console.print(f"{backend} failed: {done.stderr.strip()[-2000:]}")
                continue
            got = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append(
                [backend, f"{got['tokens_per_second']:,.0f}", f"{got['memory_mb']:,}", f"{got['last']:.3f}"]
            )
    show("QLoRA of a random Qwen3-0.6B", ["backend", "tokens/s", "peak memory, MB", "held-out loss"], rows)


if __name__ == "__main__":
    one(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
