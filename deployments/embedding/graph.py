"""A writer of ONNX graphs of one model's weights. It knows operators, not architectures.

Products with weights are written as int8 at once, so that no file of the whole model in fp32 is ever made (of 600
million parameters it would be beyond what protobuf can hold). They are the only ones: quantizing the rest costs
accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from deployments.embedding.weights import Array, ExportError, Floats, Weights

OPSET = 17
MOST_BYTES = 2**31 - 2**20
"""Of one file: protobuf's limit, less what the nodes take."""

STEPS = 127
"""Of a quantized value, to either side of zero."""

_TYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


class Graph:
    """Collects nodes and constants; every method adds some and names its output.

    `int8`: whether products with weights are int8 (per output channel). `by_row`: whether the other side is
    quantized token by token, instead of by the extremes of the whole batch. Some architectures carry, in a few
    tokens, values a thousand times the others', beside which those would be rounded away. (SmolLM2-135M, last
    hidden states: cosine with fp32 0.91 to 0.99 by batch, 0.99 by row.) And a text's vector is then the same,
    whatever it is batched with.
    """

    def __init__(self, weights: Weights, *, int8: bool, by_row: bool) -> None:
        self.weights = weights
        self._int8, self._by_row = int8, by_row
        self._model = onnx.ModelProto(ir_version=8)
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._graph.name = "sentence-embedding"
        for name in ("input_ids", "attention_mask"):
            self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]))
        self._constants: set[str] = set()
        self._bytes = 0
        self._quantized: dict[str, tuple[str, str, str]] = {}

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: object) -> list[str]:
        """A node of several outputs."""
        name = f"{kind.lower()}_{len(self._graph.node)}"
        outputs = [name, *(f"{name}_{n}" for n in range(1, count))]
        self._graph.node.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs

    def const(self, name: str, value: Array) -> str:
        """A constant; the same name is the same constant. Raises `ExportError` where the file gets too large."""
        return self._keep(name, helper.np_dtype_to_tensor_dtype(value.dtype), value)

    def number(self, value: float) -> str:
        return self.const(f"number_{value!r}", np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.const(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def rows(self, name: str, of: str) -> str:
        """Rows of a weight, by index, as float32. It is kept in the precision that it came with."""
        precision, table = self.weights.kept(name)
        found = self.op("Gather", self._keep(name, _TYPES[precision], table), of)
        return found if precision == "F32" else self.op("Cast", found, to=TensorProto.FLOAT)

    def linear(self, x: str, prefix: str) -> str:
        """A fully connected layer, with its bias if it has one."""
        name = f"{prefix}.weight"
        weight = np.ascontiguousarray(self.weights[name].T)
        y = self._int8_product(x, name, weight) if self._int8 else self.op("MatMul", x, self.const(name, weight))
        return self.op("Add", y, self._bias(prefix)) if f"{prefix}.bias" in self.weights else y

    def layer_norm(self, x: str, prefix: str, epsilon: float) -> str:
        """With its bias, if it has one."""
        scale = self.const(f"{prefix}.weight", self.weights[f"{prefix}.weight"])
        bias = [self._bias(prefix)] if f"{prefix}.bias" in self.weights else []
        return self.op("LayerNormalization", x, scale, *bias, axis=-1, epsilon=epsilon)

    def rms_norm(self, x: str, prefix: str, epsilon: float) -> str:
        mean = self.op("ReduceMean", self.op("Pow", x, self.number(2.0)), axes=[-1], keepdims=1)
        deviation = self.op("Sqrt", self.op("Add", mean, self.number(epsilon)))
        scale = self.const(f"{prefix}.weight", self.weights[f"{prefix}.weight"])
        return self.op("Mul", self.op("Div", x, deviation), scale)

    def save(self, pooled: str, dimensions: int, target: Path) -> None:
        """Write the graph, whose output `embedding` is `pooled` (batch, dimensions) made a unit vector."""
        self._graph.node.append(helper.make_node("LpNormalization", [pooled], ["embedding"], axis=-1, p=2))
        self._graph.output.append(
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimensions])
        )
        target.write_bytes(self._model.SerializeToString())
        onnx.checker.check_model(str(target))

    def _int8_product(self, x: str, name: str, weight: Floats) -> str:
        """`x` (…, in) times `weight` (in, out), as integers."""
        steps, scale = _in_steps(weight)
        integers = self.const(f"{name}.int8", steps)
        if x not in self._quantized:  # Several layers may read the same.
            self._quantized[x] = self._quantize_rows(x) if self._by_row else self._quantize_batch(x)
        quantized, zero, unit = self._quantized[x]
        product = self.op("Cast", self.op("MatMulInteger", quantized, integers, zero), to=TensorProto.FLOAT)
        scales = self.const(f"{name}.scale", scale)
        if self._by_row:
            # (One after the other: the product of both is what onnxruntime takes for the scale of a whole batch.)
            return self.op("Mul", self.op("Mul", product, scales), unit)
        return self.op("Mul", product, self.op("Mul", unit, scales))

    def _quantize_batch(self, x: str) -> tuple[str, str, str]:
        """(integers, zero point, what a step is worth) of `x`, by the extremes of the batch."""
        quantized, unit, zero = self.ops("DynamicQuantizeLinear", 3, x)
        return quantized, zero, unit

    def _quantize_rows(self, x: str) -> tuple[str, str, str]:
        """The same, where a step is worth something else in each row (…, 1)."""
        extreme = self.op("ReduceMax", self.op("Abs", x), axes=[-1], keepdims=1)
        unit = self.op("Div", self.op("Max", extreme, self.number(1e-20)), self.number(STEPS))
        zero = self.const("row_zero", np.array(128, np.uint8))
        quantized = self.op("QuantizeLinear", self.op("Div", x, unit), self.number(1.0), zero)
        return quantized, zero, unit

    def _bias(self, prefix: str) -> str:
        return self.const(f"{prefix}.bias", self.weights[f"{prefix}.bias"])

    def _keep(self, name: str, kind: int, value: Array) -> str:
        if name in self._constants:
            return name
        self._constants.add(name)
        self._bytes += value.nbytes
        if self._bytes > MOST_BYTES:
            raise ExportError("the model is too large for one ONNX file (2 GiB)")
        # In place, and not by helpers that hand copies on: of a large table each would be some hundred megabytes.
        self._graph.initializer.add(name=name, data_type=kind, dims=value.shape, raw_data=value.tobytes())
        return name


def _in_steps(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """A weight (in, out) as integers, and what one is worth in each of its columns (out)."""
    extremes = np.abs(weight).max(axis=0)
    scale = np.where(extremes > 0, extremes / STEPS, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale
