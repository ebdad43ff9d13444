"""A model asked one question in transformers, with an adapter of PEFT or without. Runs in a child (`children.py`).

The answer is the likeliest token at each step: nothing is drawn, so that two engines can be held against each
other. What each step's logits were is kept, (steps, vocabulary) as float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from train.publish.errors import ExportError

_WIDE_UP_TO = 4 << 30
"""Bytes of weights up to which a CPU computes in float32, as llama.cpp does."""


def ask(
    weights: str,
    peft: str | None,
    question: str,
    most_tokens: int,
    logits: str,
    prompt: list[int] | None = None,
    tokens: list[int] | None = None,
) -> dict[str, Any]:
    """Its answer; where `tokens` are given, `logits` are those along this answer and not along its own.

    `logits` is an npz file with `tuned` and, where there is an adapter, `base`: the same without it.
    """
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = _load(weights, peft)
    asked = prompt or prompt_of(tokenizer, question)
    with torch.inference_mode():
        own = _answer(model, asked, most_tokens, _ends(tokenizer, model))
        along = tokens if tokens is not None else own
        kept = {"tuned": _logits(model, asked, along)}
        if peft is not None:
            with model.disable_adapter():
                kept["base"] = _logits(model, asked, along)
    if not all(np.isfinite(values).all() for values in kept.values()):
        raise ExportError("it answers with what are no numbers")
    np.savez(logits, **cast(Any, kept))
    return {"prompt": asked, "tokens": own, "answer": tokenizer.decode(own, skip_special_tokens=True).strip()}


def prompt_of(tokenizer: Any, question: str) -> list[int]:
    """The token ids of a question in the model's chat template, or bare where it has none."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": question}]
        # (A template that knows of no thoughts leaves the last argument unread.)
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(question)["input_ids"])


def _load(weights: str, peft: str | None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    size = sum(file.stat().st_size for file in Path(weights).glob("*.safetensors"))
    cuda = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * size
    quantized = "quantization_config" in (Path(weights) / "config.json").read_text()
    dtype: Any = torch.float32 if not cuda and not quantized and size < _WIDE_UP_TO else "auto"
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype, device_map={"": "cuda" if cuda else "cpu"})
    if peft is not None:
        model = PeftModel.from_pretrained(model, peft)
    return model.eval()


def _ends(tokenizer: Any, model: Any) -> set[int]:
    """The tokens that end an answer."""
    ends: set[int] = set()
    for one in (tokenizer.eos_token_id, model.generation_config.eos_token_id):
        ends.update(one if isinstance(one, list) else [one] if one is not None else [])
    return ends


def _answer(model: Any, prompt: list[int], most_tokens: int, ends: set[int]) -> list[int]:
    """At least one token: what is compared must not be nothing."""
    import torch

    answer: list[int] = []
    fed, past = torch.tensor([prompt], device=model.device), None
    while len(answer) < most_tokens and not (answer and answer[-1] in ends):
        said = model(fed, past_key_values=past, use_cache=True)
        answer.append(int(said.logits[0, -1].argmax()))
        fed, past = torch.tensor([answer[-1:]], device=model.device), said.past_key_values
    return answer


def _logits(model: Any, prompt: list[int], tokens: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(len(tokens), vocabulary): row n is what came before token n."""
    import torch

    whole = torch.tensor([[*prompt, *tokens[:-1]]], device=model.device)
    rows = model(whole, logits_to_keep=len(tokens)).logits[0]
    values: np.ndarray[Any, np.dtype[np.float32]] = rows.float().cpu().numpy()
    return values
