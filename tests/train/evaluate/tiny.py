"""A model small enough to train in a test: bytes are its tokens, and it knows nothing at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from train.conversation import Conversation, Message
from train.evaluate.rendering import IGNORED, Row, prompt

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: k for k, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|pad|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )


def model(seed: int = 0, hidden: int = 64) -> Any:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=257,
        pad_token_id=258,
    )
    return LlamaForCausalLM(config).eval()


def save(folder: Path, seed: int = 0) -> Any:
    """Model and tokenizer, as a base model lies on disk."""
    made = model(seed)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return made


def talk(*turns: str) -> Conversation:
    """User and assistant in turn."""
    return Conversation(
        messages=tuple(
            Message(role="assistant" if k % 2 else "user", content=turn) for k, turn in enumerate(turns)
        )
    )


def row(conversation: Conversation) -> Row:
    """The last answer counts."""
    before = prompt(tokenizer(), conversation.messages[:-1])
    answer = tokenizer()(conversation.messages[-1].content + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return Row([*before, *answer], [IGNORED] * len(before) + list(answer))


def overfit(trained: Any, rows: Sequence[Row], steps: int, rate: float = 3e-3) -> None:
    """Learn rows by heart."""
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=rate, weight_decay=0)
    length = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + [0] * (length - len(row.tokens)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORED] * (length - len(row.labels)) for row in rows])
    trained.train()
    for _ in range(steps):
        loss = trained(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained.eval()
