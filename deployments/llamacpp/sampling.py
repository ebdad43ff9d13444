"""From logits to the next token, for one sequence: llama.cpp's sampler chain, grammar and logprobs.

Order of the chain: logit bias, penalties, top-k, top-p, min-p, temperature, then the draw.
Knows nothing of batches or text.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from deployments.llamacpp.log import unheard
from deployments.llamacpp.weights import Weights

PENALTY_WINDOW = 256
"""Tokens that the penalties look back; llama.cpp's 64 forgets within a paragraph."""


@dataclass(frozen=True)
class SamplingOptions:
    """How to draw tokens. `temperature` 0 is greedy; `seed` None draws one."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    grammar: str | None = None
    """GBNF, with the rule `root`."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of a token under the model's own distribution (before sampling)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = field(default=())


class GrammarError(ValueError):
    """llama.cpp refused a grammar."""


def enforceable(weights: Weights, grammar: str) -> bool:
    """Whether llama.cpp takes a grammar: what its converter makes of a strange schema may have no meaning."""
    sampler = _read(weights, grammar)
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
    return bool(sampler)


def _read(weights: Weights, grammar: str) -> Any:
    # One that it cannot read it prints, and the names in it are a client's.
    with unheard():
        return llama_cpp.llama_sampler_init_grammar(weights.vocab, grammar.encode(), b"root")


class Sampler:
    """One sequence's sampler. Not thread-safe. `close()` frees it."""

    def __init__(self, weights: Weights, options: SamplingOptions) -> None:
        self._n_vocab = weights.n_vocab
        self._grammar = None
        if options.grammar is not None:
            self._grammar = _read(weights, options.grammar)
            if not self._grammar:
                raise GrammarError("the grammar made from response_format or tools was refused")
        self._chain = _build_chain(weights, options)
        self._plain_greedy = options.temperature == 0 and not _shapes_logits(options)

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """Draw the next token from `logits` (n_vocab,) and remember it."""
        if self._plain_greedy and self._grammar is None:
            return int(logits.argmax())
        token = int(logits.argmax()) if self._plain_greedy else self._apply(self._chain, _candidates(logits))
        if self._grammar is not None:
            if not self._allowed(token):
                # Only now is the whole vocabulary put through the grammar, which is the slow part.
                candidates = _candidates(logits)
                llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(candidates.view))
                token = self._apply(self._chain, candidates)
            llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Let the penalties see the end of the prompt."""
        for token in tokens[-PENALTY_WINDOW:]:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def _allowed(self, token: int) -> bool:
        one = _Candidates(np.array([token], np.int32), np.array([0.0], np.float32))
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(one.view))
        return bool(np.isfinite(one.rows["logit"][0]))

    @staticmethod
    def _apply(chain: object, candidates: _Candidates) -> int:
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(candidates.view))
        return int(candidates.rows["id"][candidates.view.selected])

    def close(self) -> None:
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None


def _shapes_logits(options: SamplingOptions) -> bool:
    return bool(
        options.logit_bias
        or options.repetition_penalty != 1.0
        or options.presence_penalty
        or options.frequency_penalty
    )


def _build_chain(weights: Weights, options: SamplingOptions) -> object:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(sampler: object) -> None:
        llama_cpp.llama_sampler_chain_add(chain, sampler)

    if options.logit_bias:
        bias = (llama_cpp.llama_logit_bias * len(options.logit_bias))()
        for entry, (token, value) in zip(bias, options.logit_bias, strict=True):
            entry.token, entry.bias = token, value
        add(llama_cpp.llama_sampler_init_logit_bias(weights.n_vocab, len(bias), bias))
    if options.repetition_penalty != 1.0 or options.presence_penalty or options.frequency_penalty:
        add(
            llama_cpp.llama_sampler_init_penalties(
                weights.n_vocab,
                PENALTY_WINDOW,
                options.repetition_penalty,
                options.frequency_penalty,
                options.presence_penalty,
            )
        )
    if options.temperature == 0:
        add(llama_cpp.llama_sampler_init_greedy())
        return chain
    if options.top_k:
        add(llama_cpp.llama_sampler_init_top_k(options.top_k))
    if options.top_p < 1:
        add(llama_cpp.llama_sampler_init_top_p(options.top_p, 1))
    if options.min_p > 0:
        add(llama_cpp.llama_sampler_init_min_p(options.min_p, 1))
    add(llama_cpp.llama_sampler_init_temp(options.temperature))
    seed = llama_cpp.LLAMA_DEFAULT_SEED if options.seed is None else options.seed & 0x7FFFFFFF
    add(llama_cpp.llama_sampler_init_dist(seed))
    return chain


_ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
assert _ROW.itemsize == ctypes.sizeof(llama_cpp.llama_token_data)


class _Candidates:
    """A `llama_token_data_array` over a numpy array that samplers sort and shorten in place."""

    def __init__(self, ids: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> None:
        self.rows = np.empty(len(ids), _ROW)
        self.rows["id"] = ids
        self.rows["logit"] = logits
        self.rows["p"] = 0
        self.view = llama_cpp.llama_token_data_array(
            data=ctypes.cast(self.rows.ctypes.data, llama_cpp.llama_token_data_p),
            size=len(ids),
            selected=-1,
            sorted=False,
        )


def _candidates(logits: npt.NDArray[np.float32]) -> _Candidates:
    return _Candidates(np.arange(len(logits), dtype=np.int32), logits)


def token_logprob(logits: npt.NDArray[np.float32], token: int, n_top: int) -> TokenLogprob:
    """Logprob of `token` and of the `n_top` likeliest, from raw `logits` (n_vocab,)."""
    peak = float(logits.max())
    total = peak + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
    top: tuple[tuple[int, float], ...] = ()
    if n_top:
        best = np.argpartition(logits, -n_top)[-n_top:]
        best = best[np.argsort(-logits[best], kind="stable")]
        top = tuple((int(i), float(logits[i]) - total) for i in best)
    return TokenLogprob(token, float(logits[token]) - total, top)
