"""Small models with random weights, as repositories of a hub have them, and what transformers says of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, Qwen3Config, Qwen3Model

from deployments.embedding.export import export

END = "<|endoftext|>"

LENGTHS = (1, 5, 40, 23)
"""Tokens of the texts of one batch; the local window reaches 4 to either side."""

Floats = npt.NDArray[np.float32]


def bert() -> Any:
    return BertModel(
        BertConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    )


def modernbert() -> Any:
    return ModernBertModel(
        ModernBertConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=48,
            local_attention=8,
            global_attn_every_n_layers=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        )
    )


def qwen3() -> Any:
    return Qwen3Model(
        Qwen3Config(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=64,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        )
    )


def mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def first(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[:, 0]


def last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


KINDS: dict[str, tuple[Callable[[], Any], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "bert": (bert, mean),
    "modernbert": (modernbert, first),
    "qwen3": (qwen3, last),
}


@dataclass(frozen=True)
class Made:
    """A model as a repository of a hub has it, and what it says of a batch."""

    folder: Path
    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    expected: Floats

    def exported(self, *, int8: bool) -> Floats:
        return run(self.export(int8=int8), self.ids, self.mask)

    def export(self, *, int8: bool = True) -> Path:
        target = self.folder / "model.onnx"
        export(self.folder / "model.safetensors", self.folder / "config.json", target, int8=int8)
        return target

    def change(self, **values: object) -> None:
        """Say something else in config.json; None takes it out."""
        path = self.folder / "config.json"
        config = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def run(model: Path, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Floats:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert vectors.dtype == np.float32
    assert session.get_outputs()[0].shape[1] == vectors.shape[1]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    return np.asarray(vectors)


def make(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Made:
    torch.manual_seed(7)
    built, pool = KINDS[kind]
    model = built().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # As transformers draws them, scores are all but equal and norms 1: who attends to what would not show.
            if "norm" in name.lower():
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.2)
        model.to(dtype).save_pretrained(folder)
        model.float()
        ids = torch.randint(3, 100, (len(LENGTHS), max(LENGTHS)))
        mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = torch.nn.functional.normalize(pool(hidden, mask), dim=1)
    return Made(folder, ids.numpy(), mask.numpy(), expected.numpy())


def write_tokenizer(path: Path) -> None:
    """One of bytes, which ends every text with a token for that, in the way that Qwen3's embedders do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [symbol for symbol in alphabet if symbol.isascii()][:96]
    tokenizer = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate(letters)}, [], unk_token=letters[0]))
    tokenizer.add_special_tokens([END])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), ends])
    tokenizer.save(str(path))
