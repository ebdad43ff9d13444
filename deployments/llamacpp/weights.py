"""A GGUF model in memory: its weights, vocabulary and metadata, through llama.cpp's C API.

Knows nothing of contexts, batches or requests; many contexts may share one `Weights`.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import llama_cpp

from deployments.llamacpp.log import quieten


class WeightsError(RuntimeError):
    """The file is missing, cut off, or no model that this llama.cpp can read."""


@lru_cache(maxsize=1)
def _start_backend() -> None:
    quieten()
    llama_cpp.llama_backend_init()


class Weights:
    """One loaded model. `close()` frees it; nothing that was made from it may be used after."""

    def __init__(self, path: Path, *, gpu_layers: int = 0) -> None:
        _start_backend()
        if not path.is_file():
            raise WeightsError(f"{path} is not there; `groupqwen models pull` fetches it")
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if gpu_layers == 0:
            # Read, not mapped: most tensors are rearranged for the CPU, and their mapped pages would be resident
            # beside the rearranged ones.
            params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise WeightsError(f"llama.cpp cannot load {path}; its checksum may be wrong: fetch it again")
        self.handle = handle
        self.path = path
        self.vocab = llama_cpp.llama_model_get_vocab(handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(handle)
        self.size_bytes: int = llama_cpp.llama_model_size(handle)
        self.eos: int = llama_cpp.llama_vocab_eos(self.vocab)
        self.bos: int = llama_cpp.llama_vocab_bos(self.vocab)
        self.add_bos: bool = llama_cpp.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[tuple[int, bool], bytes] = {}

    def close(self) -> None:
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. `parse_special` turns `<|im_start|>` and its like into control tokens:
        only for what a chat template has rendered."""
        data = text.encode("utf-8", "surrogatepass")
        size = len(data) + 8
        while True:
            tokens = (llama_cpp.llama_token * size)()
            n = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, size, add_special, parse_special)
            if n >= 0:
                return list(tokens[:n])
            size = -n

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token, possibly a part of a UTF-8 character; control tokens are empty
        unless `special`."""
        key = (token, special)
        known = self._pieces.get(key)
        if known is None:
            buffer = ctypes.create_string_buffer(256)
            n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 256, 0, special)
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, -n, 0, special)
            known = self._pieces[key] = buffer.raw[:n]
        return known

    def ends_generation(self, token: int) -> bool:
        """Whether `token` ends an answer (end of turn, end of text)."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def metadata(self, key: str) -> str | None:
        """A GGUF metadata value as text, or None."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if n < 0:
                return None
            if n < size:
                return buffer.value.decode("utf-8", "replace")
            size = n + 1

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that the file carries, if any."""
        return self.metadata("tokenizer.chat_template")
