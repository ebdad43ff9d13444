"""Embedders as ONNX: the graph of each architecture written down around its safetensors weights, as int8.

Writing the graphs down (they are small, and do not change) spares every installation the gigabytes of a training
framework that an exporter would need. Output: the pooled, normalized sentence embedding, as sentence-transformers
computes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.embedding import bert, modernbert, qwen3
from deployments.embedding.graph import Graph
from deployments.embedding.weights import ExportError, Weights

ARCHITECTURES: dict[str, Callable[[Graph, dict[str, Any]], str]] = {
    "bert": bert.build,
    "modernbert": modernbert.build,
    "qwen3": qwen3.build,
}
"""By config.json's `model_type`: what writes the graph, up to the pooled vector (batch, hidden)."""

BY_ROW = {"modernbert", "qwen3"}
"""Those that are quantized token by token (see `Graph`). What is measured of all-MiniLM-L6-v2 was by batch."""


def export(weights: Path, config: Path, target: Path, *, int8: bool = True) -> None:
    """Write `target` (ONNX; fp32 where not `int8`). Inputs `input_ids` and `attention_mask`, int64 (batch,
    tokens), padded on the right; output `embedding`, float32 (batch, hidden). Raises `ExportError`."""
    shape: dict[str, Any] = json.loads(config.read_text())
    kind = shape.get("model_type")
    if kind not in ARCHITECTURES:
        raise ExportError(f"config.json: model_type is {kind!r}; there are graphs of {', '.join(ARCHITECTURES)}")
    graph = Graph(Weights(weights), int8=int8, by_row=kind in BY_ROW)
    try:
        pooled = ARCHITECTURES[kind](graph, shape)
    except KeyError as missing:
        raise ExportError(f"config.json: {missing} is not there") from missing
    staged = target.with_suffix(".part.onnx")
    graph.save(pooled, shape["hidden_size"], staged)
    staged.replace(target)
