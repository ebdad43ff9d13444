"""What the architectures share: positions, masks, rotary embeddings, attention, activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from deployments.embedding.graph import Graph
from deployments.embedding.weights import ExportError

FAR = -1e9
"""Added to the score of what must not be attended to."""


def demand(config: dict[str, Any], **values: object) -> None:
    """Raise `ExportError` where config.json says something else of what is built in one way only."""
    for name, value in values.items():
        if config.get(name, value) != value:
            raise ExportError(f"config.json: {name} is {config[name]!r}, and only {value!r} can be built")


def length(graph: Graph) -> str:
    """Tokens of the longest text of the batch, a scalar."""
    return graph.op("Gather", graph.op("Shape", "input_ids"), graph.const("one", np.array(1)))


def positions(graph: Graph) -> str:
    """0, 1, … (tokens), as floats."""
    counted = graph.op("Range", graph.const("zero", np.array(0)), length(graph), graph.const("one", np.array(1)))
    return graph.op("Cast", counted, to=TensorProto.FLOAT)


def padding(graph: Graph) -> str:
    """What is added to scores, so that no padding is attended to: (batch, 1, 1, tokens)."""
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    penalty = graph.op("Mul", graph.op("Sub", graph.number(1.0), mask), graph.number(FAR))
    return graph.op("Unsqueeze", penalty, graph.ints(1, 2))


def ahead(graph: Graph, places: str) -> str:
    """How far the attended position is ahead of the attending one: (tokens, tokens)."""
    return graph.op(
        "Sub",
        graph.op("Unsqueeze", places, graph.ints(0)),
        graph.op("Unsqueeze", places, graph.ints(1)),
    )


def beyond(graph: Graph, distances: str, most: float) -> str:
    """What is added to scores, so that nothing is attended to of which the distance is above `most`."""
    too_far = graph.op("Greater", distances, graph.number(most))
    return graph.op("Mul", graph.op("Cast", too_far, to=TensorProto.FLOAT), graph.number(FAR))


@dataclass(frozen=True)
class Rotation:
    """Rotary position embeddings (RoFormer, arXiv:2104.09864) in the half-split layout: (tokens, width / 2)."""

    cosine: str
    sine: str

    @classmethod
    def of(cls, graph: Graph, places: str, theta: float, width: int) -> Rotation:
        frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
        angles = graph.op(
            "Mul",
            graph.op("Unsqueeze", places, graph.ints(1)),
            graph.const(f"frequencies_{theta!r}", frequencies.astype(np.float32)),
        )
        return cls(graph.op("Cos", angles), graph.op("Sin", angles))

    def apply(self, graph: Graph, x: str) -> str:
        """`x` (…, tokens, width), turned by its positions."""
        left, right = graph.ops("Split", 2, x, axis=-1)
        turned = (
            graph.op("Sub", graph.op("Mul", left, self.cosine), graph.op("Mul", right, self.sine)),
            graph.op("Add", graph.op("Mul", right, self.cosine), graph.op("Mul", left, self.sine)),
        )
        return graph.op("Concat", *turned, axis=-1)


def attend(graph: Graph, query: str, key: str, value: str, *, width: int, penalty: str) -> str:
    """Attention: `query` and `value` (…, tokens, width), `key` transposed (…, width, tokens)."""
    scores = graph.op("Mul", graph.op("MatMul", query, key), graph.number(width**-0.5))
    return graph.op("MatMul", graph.op("Softmax", graph.op("Add", scores, penalty), axis=-1), value)


def gelu(graph: Graph, x: str) -> str:
    """The exact one, by the error function."""
    half = graph.op("Mul", x, graph.number(0.5))
    erf = graph.op("Erf", graph.op("Div", x, graph.number(2.0**0.5)))
    return graph.op("Mul", half, graph.op("Add", erf, graph.number(1.0)))


def silu(graph: Graph, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))
