"""BERT (arXiv:1810.04805) as sentence-transformers pools it: the mean over a text's tokens."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from deployments.embedding.graph import Graph
from deployments.embedding.layers import attend, demand, gelu, length, padding


def build(graph: Graph, config: dict[str, Any]) -> str:
    """The pooled vector: (batch, hidden)."""
    demand(config, hidden_act="gelu", position_embedding_type="absolute")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    epsilon = float(config["layer_norm_eps"])
    weights = graph.weights

    # Token type 0 throughout, so its row is added to every position once and for all.
    types, places = (weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("token_type", "position"))
    ends = graph.op("Unsqueeze", length(graph), graph.ints(0))
    positions = graph.op("Slice", graph.const("places", places + types[0]), graph.ints(0), ends, graph.ints(0))
    words = graph.rows("embeddings.word_embeddings.weight", "input_ids")
    x = graph.layer_norm(graph.op("Add", words, positions), "embeddings.LayerNorm", epsilon)

    penalty = padding(graph)
    split, merge = graph.ints(0, 0, heads, hidden // heads), graph.ints(0, 0, hidden)
    for n in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{n}"

        def head(name: str, order: list[int], x: str = x, layer: str = layer) -> str:
            projected = graph.linear(x, f"{layer}.attention.self.{name}")
            return graph.op("Transpose", graph.op("Reshape", projected, split), perm=order)

        attended = attend(
            graph,
            head("query", [0, 2, 1, 3]),
            head("key", [0, 2, 3, 1]),
            head("value", [0, 2, 1, 3]),
            width=hidden // heads,
            penalty=penalty,
        )
        attended = graph.op("Reshape", graph.op("Transpose", attended, perm=[0, 2, 1, 3]), merge)
        attended = graph.linear(attended, f"{layer}.attention.output.dense")
        x = graph.layer_norm(graph.op("Add", attended, x), f"{layer}.attention.output.LayerNorm", epsilon)
        inner = gelu(graph, graph.linear(x, f"{layer}.intermediate.dense"))
        outer = graph.linear(inner, f"{layer}.output.dense")
        x = graph.layer_norm(graph.op("Add", outer, x), f"{layer}.output.LayerNorm", epsilon)

    # The vector is made one of length 1 afterwards, so the sum does for the mean.
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    read = graph.op("Mul", x, graph.op("Unsqueeze", mask, graph.ints(2)))
    return graph.op("ReduceSum", read, graph.ints(1), keepdims=0)
