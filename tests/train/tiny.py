"""A base model of a few random weights with a tokenizer and a chat template of its own, and data for it."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from configs.training import JobSpec, Recipe, write_spec

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own template, as its GGUF file carries it."""
WORDS = "what is the sum of and it, sir. no idea hello there system user assistant think tool_response 0 1 2 3 4 5"


def make_tokenizer(template: str = SMOLLM2) -> Any:
    """Byte-level BPE, like Qwen's, with few merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [WORDS, "\n\n", "\n"],
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def make_base(folder: Path) -> Path:
    """A random Llama of two layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_dataset(folder: Path, count: int = 16, held_out: int = 4) -> Path:
    """Sums, politely answered; each with a worse answer and a thumb."""
    for name, numbers in (("train", range(count)), ("validation", range(count, count + held_out))):
        write_lines(
            folder / f"{name}.jsonl",
            [
                {
                    "id": f"{name}-{n}",
                    "messages": [
                        {"role": "user", "content": f"what is the sum of {n} and {n}"},
                        {"role": "assistant", "content": f"it is {2 * n}, sir."},
                    ],
                    "rejected": f"no idea {n}",
                    "rating": "up",
                }
                for n in numbers
            ],
        )
    return folder


RECIPE: dict[str, Any] = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "quantize": "none",
    "batch": 2,
    "accumulation": 2,
    "learning_rate": 0.01,
    "epochs": 2,
    "checkpoint_every": 3,
    "evaluate_every": 4,
    "max_length": 128,
}


def make_spec(
    base: Path, dataset: Path, adapters: Path, recipe: dict[str, Any] | None = None, **more: Any
) -> JobSpec:
    return JobSpec(
        id=f"ftjob-{secrets.token_hex(12)}",
        name="tiny",
        base="tiny-base",
        weights=base,
        dataset=dataset,
        adapters=adapters,
        recipe=Recipe(**(RECIPE | (recipe or {}))),
        evaluate=False,
        **more,
    )


def make_job(folder: Path, spec: JobSpec) -> Path:
    write_spec(folder, spec)
    return folder
