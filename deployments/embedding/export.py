"""MiniLM as ONNX: BERT's graph built from the safetensors weights, then quantized to int8.

Writing the graph down (it is small and has not changed since 2018) spares every installation the
gigabytes of a training framework that an exporter would need. Output: the mean-pooled, normalized
sentence embedding, as sentence-transformers computes it. Matrix products of the encoder are int8,
per channel; everything else stays fp32, because quantizing all of it costs accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

OPSET = 17


class _Graph:
    """Collects nodes and initializers; every method adds a node and names its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, npt.NDArray[np.generic]] = {}

    def const(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.initializers[name] = value
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output


def export(weights: Path, config: Path, target: Path) -> None:
    """Write `target` (int8 ONNX). Inputs `input_ids` and `attention_mask`, int64 (batch, tokens);
    output `embedding`, float32 (batch, hidden)."""
    tensors = load_file(weights)
    shape = json.loads(config.read_text())
    full = target.with_suffix(".fp32.onnx")
    onnx.save(_build(tensors, shape), full)
    staged = target.with_suffix(".part.onnx")
    quantize_dynamic(full, staged, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    full.unlink()
    staged.replace(target)


def _build(tensors: dict[str, npt.NDArray[np.generic]], shape: dict[str, int]) -> onnx.ModelProto:
    graph = _Graph()
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    epsilon = float(shape["layer_norm_eps"])

    def linear(x: str, prefix: str) -> str:
        weight = graph.const(f"{prefix}.weight", np.ascontiguousarray(tensors[f"{prefix}.weight"].T))
        bias = graph.const(f"{prefix}.bias", tensors[f"{prefix}.bias"])
        return graph.op("Add", graph.op("MatMul", x, weight), bias)

    def norm(x: str, prefix: str) -> str:
        scale = graph.const(f"{prefix}.weight", tensors[f"{prefix}.weight"])
        bias = graph.const(f"{prefix}.bias", tensors[f"{prefix}.bias"])
        return graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def scalar(name: str, value: float) -> str:
        return graph.const(name, np.array(value, np.float32))

    words = graph.const("words", tensors["embeddings.word_embeddings.weight"])
    # Token type 0 throughout, so its row is added to every position once and for all.
    places = (
        tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    length = graph.op("Gather", graph.op("Shape", "input_ids"), graph.const("one", np.array(1)))
    ends = graph.op("Unsqueeze", length, graph.const("axis0", np.array([0])))
    positions = graph.op(
        "Slice", graph.const("places", places), graph.const("start", np.array([0])), ends, "axis0"
    )
    x = graph.op("Add", graph.op("Gather", words, "input_ids"), positions)
    x = norm(x, "embeddings.LayerNorm")

    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    blocked = graph.op("Sub", scalar("unit", 1.0), mask)
    penalty = graph.op("Mul", blocked, scalar("far", -10000.0))
    penalty = graph.op("Unsqueeze", penalty, graph.const("axes12", np.array([1, 2])))

    split = graph.const("split", np.array([0, 0, heads, hidden // heads]))
    merge = graph.const("merge", np.array([0, 0, hidden]))
    scale = scalar("scale", 1.0 / (hidden / heads) ** 0.5)
    for n in range(shape["num_hidden_layers"]):
        layer = f"encoder.layer.{n}"

        def head(name: str, order: list[int], x: str = x, layer: str = layer) -> str:
            projected = linear(x, f"{layer}.attention.self.{name}")
            return graph.op("Transpose", graph.op("Reshape", projected, split), perm=order)

        query, key, value = (
            head("query", [0, 2, 1, 3]),
            head("key", [0, 2, 3, 1]),
            head("value", [0, 2, 1, 3]),
        )
        scores = graph.op("Add", graph.op("Mul", graph.op("MatMul", query, key), scale), penalty)
        attended = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
        attended = graph.op("Reshape", graph.op("Transpose", attended, perm=[0, 2, 1, 3]), merge)
        attended = linear(attended, f"{layer}.attention.output.dense")
        x = norm(graph.op("Add", attended, x), f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        half = graph.op("Mul", inner, scalar("half", 0.5))
        erf = graph.op("Erf", graph.op("Div", inner, scalar("sqrt2", 2.0**0.5)))
        inner = graph.op("Mul", half, graph.op("Add", erf, "unit"))
        x = norm(graph.op("Add", linear(inner, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")

    weight = graph.op("Unsqueeze", mask, graph.const("axis2", np.array([2])))
    pooled = graph.op("ReduceSum", graph.op("Mul", x, weight), "one_axis", keepdims=0)
    graph.const("one_axis", np.array([1]))
    graph.nodes.append(helper.make_node("LpNormalization", [pooled], ["embedding"], axis=-1, p=2))

    batch = ["batch", "tokens"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "sentence-embedding",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, batch)
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", hidden])],
            [numpy_helper.from_array(value, name) for name, value in graph.initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model
