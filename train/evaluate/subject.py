"""One of the two who are compared: the base, or the same weights with the adapter. It answers, and says how likely
it finds what others have said. It knows nothing of tasks, judges and gates."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.evaluate.rendering import IGNORED, Row

LOGIT_BYTES = 256 << 20
"""About the most that the logits of one batch take."""
ANSWERED_TOGETHER = 24
SMALL_PARAMETERS = 1_500_000_000
"""Up to here a model computes in float32 on a CPU, which is the faster there; beyond, it would take too much."""


@dataclass(frozen=True)
class Loss:
    """A sum of negative log-likelihoods (nats), and of how many tokens."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / self.tokens if self.tokens else float("nan")


class Subject:
    """A causal model of transformers, or PEFT's around one; `adapted`: with the adapter."""

    def __init__(self, model: Any, tokenizer: Any, *, adapted: bool, most_tokens: int = 2048) -> None:
        self.tokenizer = tokenizer
        self.most_tokens = most_tokens
        self._model = model.eval()
        self._adapted = adapted
        self._vocabulary = int(model.config.get_text_config().vocab_size)

    def _worn(self) -> AbstractContextManager[Any]:
        bare = not self._adapted and hasattr(self._model, "disable_adapter")
        return self._model.disable_adapter() if bare else nullcontext()

    def losses(self, rows: Sequence[Row]) -> list[Loss]:
        """Of each row's labels, in order."""
        found: list[Loss] = [Loss(0.0, 0)] * len(rows)
        counting = [k for k, row in enumerate(rows) if any(label != IGNORED for label in row.labels[1:])]
        with torch.inference_mode(), self._worn():
            for batch in self._batches(counting, rows):
                for k, loss in zip(batch, self._batch_losses([rows[k] for k in batch]), strict=True):
                    found[k] = loss
        return found

    def _batches(self, order: Sequence[int], rows: Sequence[Row]) -> Iterator[list[int]]:
        batch: list[int] = []
        for k in sorted(order, key=lambda k: len(rows[k].tokens)):
            length = len(rows[k].tokens)  # (the longest yet)
            if batch and (len(batch) + 1) * length * self._vocabulary * 4 > LOGIT_BYTES:
                yield batch
                batch = []
            batch.append(k)
        if batch:
            yield batch

    def _batch_losses(self, rows: Sequence[Row]) -> list[Loss]:
        tokens = _padded([row.tokens for row in rows], 0).to(self._model.device)  # (rows, length)
        mask = _padded([[1] * len(row.tokens) for row in rows], 0).to(self._model.device)
        labels = _padded([row.labels for row in rows], IGNORED)[:, 1:]  # what position k should say
        kept = (labels != IGNORED).any(dim=0).nonzero().flatten()  # positions that count in any row
        labels = labels[:, kept].to(self._model.device)
        # (use_cache: one is of no use here, and takes memory.)
        logits = self._model(
            input_ids=tokens,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=kept.to(self._model.device),
        ).logits
        lost = torch.stack([_lost(row, label) for row, label in zip(logits, labels, strict=True)])
        counts = (labels != IGNORED).sum(dim=1)
        return [
            Loss(float(total), int(count))
            for total, count in zip(lost.sum(dim=1).tolist(), counts.tolist(), strict=True)
        ]

    def continuations(self, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Loss]:
        """How likely each of `texts` is after one prompt, which is computed once."""
        device = self._model.device
        found: list[Loss] = []
        with torch.inference_mode(), self._worn():
            start = self._model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=True)
            first = start.logits[0, -1:].float()
            for begin in range(0, len(texts), 64):
                batch = texts[begin : begin + 64]
                tokens = _padded(batch, 0).to(device)
                labels = _padded(batch, IGNORED).to(device)
                cache = copy.deepcopy(start.past_key_values)
                cache.batch_repeat_interleave(len(batch))
                logits = first.expand(len(batch), 1, -1)
                if tokens.shape[1] > 1:
                    # (What follows the end of a shorter text is not counted, and nothing that counts sees it.)
                    later = self._model(input_ids=tokens[:, :-1], past_key_values=cache, use_cache=True).logits
                    logits = torch.cat([logits, later.float()], dim=1)
                for row, label, text in zip(logits, labels, batch, strict=True):
                    found.append(Loss(float(_lost(row, label).sum()), len(text)))
        return found

    def answers(self, prompts: Sequence[Sequence[int]], most_tokens: int = 64) -> list[str]:
        """The likeliest token at every step, in order of the prompts."""
        found = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
        with torch.inference_mode(), self._worn():
            for begin in range(0, len(order), ANSWERED_TOGETHER):
                batch = order[begin : begin + ANSWERED_TOGETHER]
                for k, answer in zip(batch, self._answer([prompts[k] for k in batch], most_tokens), strict=True):
                    found[k] = answer
        return found

    def _answer(self, prompts: Sequence[Sequence[int]], most_tokens: int) -> list[str]:
        length = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        tokens = torch.tensor([[pad] * (length - len(one)) + list(one) for one in prompts])
        mask = torch.tensor([[0] * (length - len(one)) + [1] * len(one) for one in prompts])
        given = self._model.generate(
            input_ids=tokens.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            max_new_tokens=most_tokens,
            # Some models come with settings for chance and against repetition.
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=pad,
            eos_token_id=self._ends(),
        )
        return [
            str(one).strip()
            for one in self.tokenizer.batch_decode(given[:, length:].tolist(), skip_special_tokens=True)
        ]

    def _ends(self) -> list[int]:
        told = getattr(self._model.generation_config, "eos_token_id", None)
        ends = [told] if isinstance(told, int) else list(told or [])
        return sorted({*ends, self.tokenizer.eos_token_id} - {None})


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Any:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])


def _lost(logits: Any, labels: Any) -> Any:
    """Of one row; 0 where nothing is asked."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def _dtype(cuda: bool, parameters: int) -> torch.dtype:
    if cuda:
        # (As it was trained: an older card emulates bf16, slowly.)
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if parameters > SMALL_PARAMETERS else torch.float32


def load(weights: Path, peft: Path, *, gpu: bool, most_tokens: int) -> tuple[Subject, Subject]:
    """The base and the adapter, which share their weights. Raises what transformers and PEFT raise: `OSError`,
    `ValueError`."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights)
    cuda = gpu and torch.cuda.is_available()
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(weights)).num_parameters()
    dtype = _dtype(cuda, parameters)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype)
    model = PeftModel.from_pretrained(model, peft)
    model.to("cuda" if cuda else "cpu")
    return (
        Subject(model, tokenizer, adapted=False, most_tokens=most_tokens),
        Subject(model, tokenizer, adapted=True, most_tokens=most_tokens),
    )
