"""The same in llama.cpp: a GGUF model asked, with a GGUF adapter or without. Runs in a child (`children.py`)."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import llama_cpp
import numpy as np
import numpy.typing as npt

from train.publish.errors import ExportError


def ask(
    model: str,
    adapter: str | None,
    prompt: list[int],
    tokens: list[int],
    most_tokens: int,
    logits: str,
    threads: int,
) -> dict[str, Any]:
    """Its own answer to `prompt`; `logits` are those along `tokens`, as in `asking.py`."""
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    weights = llama_cpp.llama_model_load_from_file(model.encode(), params)
    if not weights:
        raise ExportError("llama.cpp cannot load it")
    context = _Context(weights, len(prompt) + max(len(tokens), most_tokens) + 8, threads)
    kept = {}
    if adapter is not None:
        handle = llama_cpp.llama_adapter_lora_init(weights, adapter.encode())
        if not handle:
            raise ExportError("llama.cpp cannot load it as an adapter of its base")
        kept["base"] = context.along(prompt, tokens)
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
        if llama_cpp.llama_set_adapters_lora(context.handle, handles, 1, (ctypes.c_float * 1)(1.0)):
            raise ExportError("llama.cpp cannot attach it to its base")
    kept["tuned"] = context.along(prompt, tokens)
    if not all(np.isfinite(values).all() for values in kept.values()):
        raise ExportError("it answers with what are no numbers")
    np.savez(logits, **cast(Any, kept))
    own = context.answer(prompt, most_tokens)
    return {"tokens": own, "answer": context.text(own).strip()}


class _Context:
    """One sequence."""

    def __init__(self, weights: Any, size: int, threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = size
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self.handle = llama_cpp.llama_init_from_model(weights, params)
        if not self.handle:
            raise ExportError(f"llama.cpp cannot make a context of {size} tokens for it")
        self._vocab = llama_cpp.llama_model_get_vocab(weights)
        self._n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._size = size

    def along(self, prompt: list[int], tokens: list[int]) -> npt.NDArray[np.float32]:
        """(len(tokens), vocabulary): row n is what came before token n."""
        llama_cpp.llama_memory_clear(self._memory, True)
        return self._decode([*prompt, *tokens[:-1]], 0, len(tokens))

    def answer(self, prompt: list[int], most_tokens: int) -> list[int]:
        llama_cpp.llama_memory_clear(self._memory, True)
        answer = [int(self._decode(prompt, 0, 1)[0].argmax())]
        while len(answer) < most_tokens and not llama_cpp.llama_vocab_is_eog(self._vocab, answer[-1]):
            row = self._decode(answer[-1:], len(prompt) + len(answer) - 1, 1)
            answer.append(int(row[0].argmax()))
        return answer

    def _decode(self, tokens: list[int], position: int, wanted: int) -> npt.NDArray[np.float32]:
        """Feed `tokens`, the first at `position`; the logits after each of the last `wanted`."""
        if any(not 0 <= token < self._n_vocab for token in tokens):
            raise ExportError("its vocabulary is not its base's")
        n = len(tokens)
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        try:
            batch.n_tokens = n
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i] = token, position + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = i >= n - wanted
            if code := llama_cpp.llama_decode(self.handle, batch):
                raise ExportError(f"llama.cpp could not compute it (it answered {code})")
            rows = [
                np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.handle, i), (self._n_vocab,)).copy()
                for i in range(n - wanted, n)
            ]
        finally:
            llama_cpp.llama_batch_free(batch)
        return np.stack(rows)

    def text(self, tokens: list[int]) -> str:
        pieces = []
        for token in tokens:
            buffer = ctypes.create_string_buffer(512)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 512, 0, False)
            pieces.append(buffer.raw[: max(0, n)])
        return b"".join(pieces).decode("utf-8", "replace")
