"""Qwen3 (arXiv:2505.09388) as its embedding models pool it (arXiv:2506.05176): the last token, which has seen the
whole text. Their tokenizer ends every text with a token for that."""

from __future__ import annotations

from typing import Any

import numpy as np

from deployments.embedding.graph import Graph
from deployments.embedding.layers import Rotation, ahead, attend, beyond, demand, padding, positions, silu


def build(graph: Graph, config: dict[str, Any]) -> str:
    """The pooled vector: (batch, hidden)."""
    demand(config, hidden_act="silu", use_sliding_window=False, rope_scaling=None)
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta")}
    demand(rope, rope_type="default")
    heads, groups, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    epsilon = float(config["rms_norm_eps"])
    places = positions(graph)
    penalty = graph.op("Add", padding(graph), beyond(graph, ahead(graph, places), 0.0))
    # Each key is read by several queries, which are its group: (batch, groups, in a group, tokens, …)
    penalty = graph.op("Unsqueeze", penalty, graph.ints(1))
    rotation = Rotation.of(graph, places, rope["rope_theta"], width)

    x = graph.rows("embed_tokens.weight", "input_ids")
    for n in range(config["num_hidden_layers"]):
        layer = f"layers.{n}"
        read = graph.rms_norm(x, f"{layer}.input_layernorm", epsilon)

        def head(name: str, each: int, read: str = read, layer: str = layer) -> str:
            """(batch, groups, each, tokens, width)"""
            projected = graph.linear(read, f"{layer}.self_attn.{name}_proj")
            projected = graph.op("Reshape", projected, graph.ints(0, 0, groups, each, width))
            if name != "v":
                projected = graph.rms_norm(projected, f"{layer}.self_attn.{name}_norm", epsilon)
            projected = graph.op("Transpose", projected, perm=[0, 2, 3, 1, 4])
            return projected if name == "v" else rotation.apply(graph, projected)

        key = graph.op("Transpose", head("k", 1), perm=[0, 1, 2, 4, 3])
        attended = attend(graph, head("q", heads // groups), key, head("v", 1), width=width, penalty=penalty)
        attended = graph.op("Transpose", attended, perm=[0, 3, 1, 2, 4])
        attended = graph.op("Reshape", attended, graph.ints(0, 0, -1))
        x = graph.op("Add", x, graph.linear(attended, f"{layer}.self_attn.o_proj"))

        read = graph.rms_norm(x, f"{layer}.post_attention_layernorm", epsilon)
        inner = silu(graph, graph.linear(read, f"{layer}.mlp.gate_proj"))
        inner = graph.op("Mul", inner, graph.linear(read, f"{layer}.mlp.up_proj"))
        x = graph.op("Add", x, graph.linear(inner, f"{layer}.mlp.down_proj"))

    # Padding is on the right, so the last token is where the mask's sum says.
    count = graph.op("ReduceSum", "attention_mask", graph.ints(1), keepdims=1)
    last = graph.op("GatherND", x, graph.op("Sub", count, graph.const("one", np.array(1))), batch_dims=1)
    return graph.rms_norm(last, "norm", epsilon)
