"""Names, streets and identity numbers by Rampart, a token classifier of 15 MB that runs offline.

Rampart is by National Design Studio (CC BY 4.0). It reads 480 letters at a time, which is where it does best;
windows overlap, so that nothing is cut in two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

LABELS = (
    "GIVEN_NAME",
    "SURNAME",
    "EMAIL",
    "PHONE",
    "URL",
    "TAX_ID",
    "BANK_ACCOUNT",
    "ROUTING_NUMBER",
    "GOVERNMENT_ID",
    "PASSPORT",
    "DRIVERS_LICENSE",
    "BUILDING_NUMBER",
    "STREET_NAME",
    "SECONDARY_ADDRESS",
    "CITY",
    "STATE",
    "ZIP_CODE",
)
"""Of the model, in its order: 0 is none, then begin and inside of each."""
WINDOW = 480
OVERLAP = 64
BATCH = 16
MOST_TOKENS = 512
"""Of a window, with both special tokens."""


@dataclass(frozen=True)
class Labelled:
    """A piece of text and what it is."""

    start: int
    end: int
    label: str
    score: float
    """The least of its tokens' probabilities."""


class PiiModel:
    """Loads `model` and `tokenizer`, which are Rampart's files. Thread-safe."""

    def __init__(self, model: Path, tokenizer: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._takes = {given.name for given in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_TOKENS)

    def label(self, texts: Sequence[str], least: float = 0.5) -> list[list[Labelled]]:
        """What is in each of the texts, in order; `least` is the probability that a token needs."""
        windows = [(number, start) for number, text in enumerate(texts) for start in _starts(len(text))]
        found: list[list[Labelled]] = [[] for _ in texts]
        # Those of a length together: little is padded.
        windows.sort(key=lambda each: len(texts[each[0]][each[1] : each[1] + WINDOW]))
        for first in range(0, len(windows), BATCH):
            batch = windows[first : first + BATCH]
            pieces = [texts[number][start : start + WINDOW] for number, start in batch]
            for (number, start), labelled in zip(batch, self._read(pieces, least), strict=True):
                found[number] += [Labelled(e.start + start, e.end + start, e.label, e.score) for e in labelled]
        return [_joined(each) for each in found]

    def _read(self, pieces: Sequence[str], least: float) -> Iterator[list[Labelled]]:
        encoded = self._tokenizer.encode_batch([p.encode("utf-8", "replace").decode() for p in pieces])
        width = max(len(each.ids) for each in encoded)
        ids = np.zeros((len(encoded), width), np.int64)
        mask = np.zeros_like(ids)
        for row, each in enumerate(encoded):
            ids[row, : len(each.ids)] = each.ids
            mask[row, : len(each.ids)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (logits,) = self._session.run(None, {name: given[name] for name in given if name in self._takes})
        logits -= logits.max(axis=-1, keepdims=True)
        chances = np.exp(logits)
        chances /= chances.sum(axis=-1, keepdims=True)
        best = chances.argmax(axis=-1)
        for row, (piece, each) in enumerate(zip(pieces, encoded, strict=True)):
            tokens = [
                (start, end, int(best[row, i]), float(chances[row, i].max()))
                for i, (start, end) in enumerate(each.offsets)
                if end > start
            ]
            yield list(_spans(piece, tokens, least))


def _starts(length: int) -> Iterator[int]:
    if length:
        yield from range(0, max(1, length - OVERLAP), WINDOW - OVERLAP)


def _spans(text: str, tokens: Sequence[tuple[int, int, int, float]], least: float) -> Iterator[Labelled]:
    """Tokens of one label that stand together. A token that begins within a word goes with that word."""
    now: Labelled | None = None
    for start, end, label, score in tokens:
        name = LABELS[(label - 1) // 2] if label and score >= least else None
        begins = label % 2 == 1
        if now is not None and name == now.label:
            between = text[now.end : start]
            if not between or (not begins and between.isspace()):
                now = Labelled(now.start, end, now.label, min(now.score, score))
                continue
        if now is not None:
            yield now
        now = Labelled(start, end, name, score) if name else None
    if now is not None:
        yield now


def _joined(spans: list[Labelled]) -> list[Labelled]:
    """Of two windows that overlap, both may see the same, or each a part of it."""
    joined: list[Labelled] = []
    for each in sorted(spans, key=lambda s: (s.start, s.end)):
        last = next((one for one in reversed(joined) if one.label == each.label), None)
        if last is not None and each.start < last.end:
            at = joined.index(last)
            joined[at] = Labelled(last.start, max(last.end, each.end), last.label, max(last.score, each.score))
        else:
            joined.append(each)
    return joined
