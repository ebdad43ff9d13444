"""Whether a form of an adapter does what the adapter does: what it changes, held against what PEFT changes.

All are logits along the same answer, (steps, vocabulary). Held against each other are not the logits, which differ
by all that quantizing the base has lost, but their *changes*: tuned less untuned. All are centred at each step, as
a constant on all logits changes no answer; what is given is root mean squares, in logits.

The bounds were found with SmolLM2-135M in Q4_1 and adapters of four strengths: right ones err by 1.1 to 1.4 times
the bases' own difference, and ones whose query and key rows are in transformers' order by half of the change more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.floating[Any]]

LEAST_NOISE = 0.1
"""That much a model's logits move when its weights are rounded to bf16."""
MOST_NOISE = 1.5
"""Of the noise, that much may be an error."""
MOST_ERROR = 0.3
"""Of the change."""
LEAST_SHARE = 0.5
"""Of the change: it must be nearer to the tuned model than to the base."""


@dataclass(frozen=True)
class Likeness:
    """Of a form to the adapter in PEFT."""

    change: float
    """What PEFT changes."""
    error: float
    """What the form changes otherwise."""
    share: float
    """Of PEFT's change, how much is there: 1 all of it, 0 nothing, below 0 the contrary."""
    agreement: float
    """The share of steps at which the likeliest token is the same."""
    noise: float
    """How far the two bases are from each other, without the adapter; 0: it has no base of its own."""

    @property
    def is_exact(self) -> bool:
        """As exact as whole weights can be."""
        noise = MOST_NOISE * max(LEAST_NOISE, self.noise)
        return self.is_near and self.error <= math.hypot(noise, MOST_ERROR * self.change)

    @property
    def is_near(self) -> bool:
        """As near as few bits can be. (Of a change within the noise nothing can be said.)"""
        return self.change <= MOST_NOISE * max(LEAST_NOISE, self.noise) or self.share >= LEAST_SHARE

    def __str__(self) -> str:
        return (
            f"PEFT changes logits by {self.change:.3g}; here {self.share:.0%} of that is there, and "
            f"{self.error:.3g} is otherwise (the bases differ by {self.noise:.3g}); "
            f"the likeliest token is the same at {self.agreement:.0%} of the steps"
        )


def liken(tuned: Logits, base: Logits, here: Logits, here_base: Logits | None = None) -> Likeness:
    """`tuned` and `base` are PEFT's, with and without the adapter; `here` and `here_base` the form's.

    Without `here_base` (a merged model has no base of its own) PEFT's is taken, and what quantizing has lost
    counts as an error. Vocabularies may end in unused tokens; what only one of the two has is left out.
    """
    width = min(tuned.shape[1], here.shape[1])
    before = _centred(base[:, :width])
    before_here = before if here_base is None else _centred(here_base[:, :width])
    wanted = _centred(tuned[:, :width]) - before
    got = _centred(here[:, :width]) - before_here
    power = float((wanted**2).mean())
    return Likeness(
        change=math.sqrt(power),
        error=_rms(got - wanted),
        share=float((got * wanted).mean()) / power if power else 0.0,
        agreement=float((tuned[:, :width].argmax(1) == here[:, :width].argmax(1)).mean()),
        noise=_rms(before_here - before),
    )


def _rms(values: npt.NDArray[np.float64]) -> float:
    return math.sqrt(float((values**2).mean()))


def _centred(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    centred: npt.NDArray[np.float64] = wide - wide.mean(axis=1, keepdims=True)
    return centred
