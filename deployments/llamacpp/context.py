"""One llama.cpp context with room for many sequences: decode a batch, read logits, move KV cells.

The KV cache is unified: all sequences draw from one pool of `n_ctx` cells, so that a shared prefix
is stored once and a sequence may be as long as the pool. Knows nothing of requests or sampling.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple

import llama_cpp
import numpy as np
import numpy.typing as npt

from deployments.llamacpp.log import heard
from deployments.llamacpp.weights import Weights, WeightsError

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


class Span(NamedTuple):
    """Consecutive tokens of one sequence in a batch, the first at `position`; `wants_logits` asks for
    those of the last one."""

    tokens: npt.NDArray[np.int32]
    position: int
    sequence: int
    wants_logits: bool


class Decoded(Enum):
    """What became of a batch."""

    OK = 0
    NO_ROOM = 1
    """The KV pool has no place for it; nothing was changed."""


class DecodeError(RuntimeError):
    """llama.cpp failed to compute a batch; the sequences in it are lost."""


@dataclass(frozen=True)
class ContextOptions:
    """Sizes are in tokens; `threads` compute one batch together."""

    n_ctx: int
    n_sequences: int
    n_batch: int = 512
    threads: int = 1
    flash_attention: bool = True
    kv_dtype: Literal["f16", "q8_0"] = "f16"


class Context:
    """The low-level half of the engine. Not thread-safe: one thread owns it."""

    def __init__(self, weights: Weights, options: ContextOptions) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.n_ctx
        params.n_batch = params.n_ubatch = options.n_batch
        params.n_seq_max = options.n_sequences
        # One row of logits a sequence is ever wanted; the default keeps one for every batch row.
        params.n_outputs_max = options.n_sequences
        params.n_threads = params.n_threads_batch = options.threads
        params.kv_unified = True
        params.type_k = params.type_v = _KV_TYPES[options.kv_dtype]
        params.no_perf = True
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if options.flash_attention
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        handle = llama_cpp.llama_init_from_model(weights.handle, params)
        if not handle:
            raise WeightsError(
                f"llama.cpp cannot make a context of {options.n_ctx} tokens for {weights.path.name}; "
                "less context may fit (`context` and `kv_tokens` in the profile)"
            )
        self.handle = handle
        self.options = options
        self.n_ctx: int = llama_cpp.llama_n_ctx(handle)
        self._n_vocab = weights.n_vocab
        self._weights = weights
        self._memory = llama_cpp.llama_get_memory(handle)
        self._adapters: dict[str, int] = {}
        self._adapter: str | None = None
        self._allocate_batch(options.n_batch)

    def _allocate_batch(self, n: int) -> None:
        """Batch columns as numpy arrays that llama.cpp reads in place: filling one is a few slices."""
        self._token: npt.NDArray[np.int32] = np.zeros(n, np.int32)
        self._position: npt.NDArray[np.int32] = np.zeros(n, np.int32)
        self._n_sequence: npt.NDArray[np.int32] = np.ones(n, np.int32)
        self._sequence: npt.NDArray[np.int32] = np.zeros(n, np.int32)
        self._wanted: npt.NDArray[np.int8] = np.zeros(n, np.int8)
        first = self._sequence.ctypes.data
        self._sequence_pointers: npt.NDArray[np.uint64] = (first + 4 * np.arange(n, dtype=np.uint64)).astype(
            np.uint64
        )
        batch = llama_cpp.llama_batch()
        for field, column in (
            ("token", self._token),
            ("pos", self._position),
            ("n_seq_id", self._n_sequence),
            ("seq_id", self._sequence_pointers),
            ("logits", self._wanted),
        ):
            kind = dict(llama_cpp.llama_batch._fields_)[field]
            setattr(batch, field, ctypes.cast(column.ctypes.data, kind))
        self._batch = batch

    def decode(self, spans: Sequence[Span]) -> Decoded:
        """Compute one batch of at most `n_batch` tokens. Releases the GIL while it computes."""
        n = 0
        for span in spans:
            end = n + len(span.tokens)
            self._token[n:end] = span.tokens
            self._position[n:end] = np.arange(span.position, span.position + end - n)
            self._sequence[n:end] = span.sequence
            self._wanted[n:end] = 0
            self._wanted[end - 1] = span.wants_logits
            n = end
        self._batch.n_tokens = n
        code = llama_cpp.llama_decode(self.handle, self._batch)
        if code == 0:
            return Decoded.OK
        if code == 1:
            return Decoded.NO_ROOM
        raise DecodeError(f"llama_decode answered {code}")

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits (n_vocab,) of batch row `row`; valid until the next `decode`."""
        pointer = llama_cpp.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise DecodeError(f"no logits were kept for batch row {row}")
        return np.ctypeslib.as_array(pointer, (self._n_vocab,))

    def forget(self, sequence: int, start: int = 0) -> bool:
        """Drop a sequence's cells from position `start` on. False: this model's memory cannot be cut
        there (recurrent layers), and nothing was dropped."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def share(self, source: int, target: int, length: int) -> None:
        """Give `target` the first `length` cells of `source`; no data moves."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def forget_all(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)

    def load_adapter(self, name: str, path: Path) -> None:
        """Load a GGUF LoRA adapter under `name`. Raises `WeightsError`, which says what is wrong with it."""
        with heard() as complaints:
            handle = llama_cpp.llama_adapter_lora_init(self._weights.handle, str(path).encode())
        if not handle:
            why = f": {complaints[-1]}" if complaints else ""
            raise WeightsError(f"{path.name} is no LoRA adapter for {self._weights.path.name}{why}")
        self._adapters[name] = handle

    def unload_adapter(self, name: str) -> None:
        """Free an adapter; its cells in the KV cache stay as they are."""
        if self._adapter == name:
            self.use_adapter(None)  # (Whose handles are attached is read again at every batch.)
        llama_cpp.llama_adapter_lora_free(self._adapters.pop(name))

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset(self._adapters)

    def use_adapter(self, name: str | None) -> None:
        """Attach one adapter, or none, to the whole context: llama.cpp has no finer grain, so a batch
        holds sequences of one adapter only."""
        if name == self._adapter:
            return
        if name is None:
            llama_cpp.llama_set_adapters_lora(self.handle, None, 0, None)
        else:
            handles = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapters[name])
            llama_cpp.llama_set_adapters_lora(self.handle, handles, 1, (ctypes.c_float * 1)(1.0))
        self._adapter = name

    def close(self) -> None:
        """Free the context; its adapters go with the model."""
        if self.handle:
            llama_cpp.llama_free(self.handle)
            self.handle = None
