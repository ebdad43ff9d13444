"""ModernBERT (arXiv:2412.13663), of which the first token is the text's vector.

Every n-th layer attends to all tokens, and the others to a window around each, with rotary embeddings of
another base.
"""

from __future__ import annotations

from typing import Any

from deployments.embedding.graph import Graph
from deployments.embedding.layers import Rotation, ahead, attend, beyond, demand, gelu, padding, positions
from deployments.embedding.weights import ExportError

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def build(graph: Graph, config: dict[str, Any]) -> str:
    """The pooled vector: (batch, hidden)."""
    demand(config, hidden_activation="gelu")
    heads, width = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    epsilon = float(config["norm_eps"])
    places, padded = positions(graph), padding(graph)
    distances = graph.op("Abs", ahead(graph, places))
    # `local_attention` is the whole window: half of it to either side, and the token itself.
    outside = beyond(graph, distances, config["local_attention"] // 2)
    penalties = {GLOBAL: padded, LOCAL: graph.op("Add", padded, outside)}
    rotations = {kind: Rotation.of(graph, places, theta, width) for kind, theta in _bases(config).items()}

    split = graph.ints(0, 0, 3, heads, width)
    x = graph.layer_norm(graph.rows("embeddings.tok_embeddings.weight", "input_ids"), "embeddings.norm", epsilon)
    for n, kind in enumerate(_kinds(config)):
        layer = f"layers.{n}"
        # (The first layer's input has been normalized as the embeddings' output.)
        read = graph.layer_norm(x, f"{layer}.attn_norm", epsilon) if n else x
        # (batch, tokens, 3 × heads × width) → three of (batch, heads, tokens, width)
        parts = graph.op("Reshape", graph.linear(read, f"{layer}.attn.Wqkv"), split)
        parts = graph.op("Transpose", parts, perm=[2, 0, 3, 1, 4])
        query, key, value = (
            graph.op("Squeeze", part, graph.ints(0)) for part in graph.ops("Split", 3, parts, axis=0)
        )
        query, key = (rotations[kind].apply(graph, part) for part in (query, key))
        key = graph.op("Transpose", key, perm=[0, 1, 3, 2])
        attended = attend(graph, query, key, value, width=width, penalty=penalties[kind])
        attended = graph.op("Transpose", attended, perm=[0, 2, 1, 3])
        attended = graph.op("Reshape", attended, graph.ints(0, 0, -1))
        x = graph.op("Add", x, graph.linear(attended, f"{layer}.attn.Wo"))

        read = graph.layer_norm(x, f"{layer}.mlp_norm", epsilon)
        inner, gate = graph.ops("Split", 2, graph.linear(read, f"{layer}.mlp.Wi"), axis=-1)
        inner = graph.op("Mul", gelu(graph, inner), gate)
        x = graph.op("Add", x, graph.linear(inner, f"{layer}.mlp.Wo"))

    first = graph.op("Squeeze", graph.op("Gather", x, graph.ints(0), axis=1), graph.ints(1))
    return graph.layer_norm(first, "final_norm", epsilon)


def _kinds(config: dict[str, Any]) -> list[str]:
    """Each layer's attention. Newer files name it, older ones count."""
    named: list[str] | None = config.get("layer_types")
    if named is not None:
        return named
    every = config["global_attn_every_n_layers"]
    return [LOCAL if n % every else GLOBAL for n in range(config["num_hidden_layers"])]


def _bases(config: dict[str, Any]) -> dict[str, float]:
    """The rotary embeddings' base of each kind of attention; written in two ways, too."""
    written = config.get("rope_parameters")
    if written is None:
        return {GLOBAL: config["global_rope_theta"], LOCAL: config["local_rope_theta"]}
    for kind in (GLOBAL, LOCAL):
        if written[kind]["rope_type"] != "default":
            raise ExportError(f"config.json: rope_type {written[kind]['rope_type']!r} cannot be built")
    return {kind: written[kind]["rope_theta"] for kind in (GLOBAL, LOCAL)}
