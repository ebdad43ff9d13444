"""Tiny models with random weights, as transformers and as llama.cpp have them, and adapters for them.

Adapters are written from numpy's random numbers, so that the same seed gives the same file everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Family = Literal["llama", "qwen2", "qwen3"]
FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "qwen3")

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, INNER = 2, 64, 4, 2, 16, 96
ROPE, EPSILON = 10000.0, 1e-5
END = "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WIDTHS = {
    "self_attn.q_proj": (HIDDEN, HEADS * HEAD),
    "self_attn.k_proj": (HIDDEN, KV_HEADS * HEAD),
    "self_attn.v_proj": (HIDDEN, KV_HEADS * HEAD),
    "self_attn.o_proj": (HEADS * HEAD, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
"""(in, out) of a layer's matrices."""


def vocabulary() -> list[str]:
    """Bytes, as GPT-2 writes them, and three that control."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "<|endoftext|>", "<|im_start|>", END]


def make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", END],
        chat_template=TEMPLATE,
    )
    whole.save_pretrained(folder)


def make_model(folder: Path, family: Family, *, tied: bool = False, dtype: str = "float32") -> Path:
    """A model's folder with its tokenizer."""
    import torch
    import transformers

    classes = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config = getattr(transformers, f"{classes[family]}Config")(
        vocab_size=len(vocabulary()),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD,
        max_position_embeddings=512,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE},
        tie_word_embeddings=tied,
        eos_token_id=len(vocabulary()) - 1,
        bos_token_id=None,
    )
    torch.manual_seed(7)
    model = getattr(transformers, f"{classes[family]}ForCausalLM")(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim == 1:
                # Norms and biases are ones and zeros at first, which would hide that they are lost.
                values.add_(torch.randn_like(values) * 0.2)
            else:
                values.normal_(std=1.0 if "embed" in name else values.shape[1] ** -0.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_gguf(model: Path, target: Path) -> Path:
    """The same model for llama.cpp, in F32: our own writer's, given all that is no weight."""
    import gguf

    from train.publish.gguf_model import write_model_gguf

    config = json.loads((model / "config.json").read_text())
    family = config["model_type"]
    header = target.with_suffix(".header")
    writer = gguf.GGUFWriter(header, family)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(ROPE)
    writer.add_layer_norm_rms_eps(EPSILON)
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 3) + [3] * 3)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    write_model_gguf(str(model), str(header), str(target), "F32", f"tiny {family}", 1)
    return target


def make_adapter(
    folder: Path,
    model: Path,
    *,
    rank: int = 4,
    alpha: float = 8,
    strength: float = 0.5,
    targets: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"),
    ranks: dict[str, int] | None = None,
    **config: Any,
) -> Path:
    """An adapter of PEFT; `ranks` are those of single matrices, by the end of their names."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(11)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for layer in range(LAYERS):
        for target in targets:
            wide, high = WIDTHS[target]
            r = next((r for end, r in (ranks or {}).items() if target.endswith(end)), rank)
            name = f"base_model.model.model.layers.{layer}.{target}"
            tensors[f"{name}.lora_A.weight"] = _random(random, (r, wide), wide**-0.5)
            tensors[f"{name}.lora_B.weight"] = _random(random, (high, r), strength * r**-0.5)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({target.split(".")[-1] for target in targets}),
        "rank_pattern": ranks or {},
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def _random(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
    # (Sums of uniform numbers: the generator's normal ones are not promised to stay the same.)
    return ((random.random((*shape, 4)).sum(-1) - 2) * np.sqrt(3) * scale).astype(np.float32)
