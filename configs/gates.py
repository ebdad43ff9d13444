"""The rules of the gate (`gates.yaml`): what an adapter must show before it may serve in its base's place."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from configs.document import ROOT, Strict, read
from configs.home import home

GATES = ROOT / "gates.yaml"
"""The rules that come with GroupQwen."""


class GateRules(Strict):
    """`gates.yaml`. What was not measured passes its rule, unless it is among `required`."""

    required: tuple[str, ...] = Field(
        ("held_out.base", "held_out.adapter", "regression.base", "regression.adapter"),
        description="Metrics without which nothing is promoted.",
    )
    held_out_rise: float = Field(
        0.0, ge=0, description="By so much its loss on held-out answers may be above the base's (nats a token)."
    )
    regression_fall: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Forgetting: so much of its accuracy in the regression suite it may lose.",
    )
    general_rise: float = Field(
        0.25, ge=0, description="Forgetting: by so much its loss on general text may rise (nats a token)."
    )
    tasks_fall: float = Field(
        0.0, ge=0, le=1, description="So much of its accuracy in the dataset's own tasks it may lose."
    )
    judge_least: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The judge's win rate that the upper end of its interval must reach: below one half, the "
        "judge is sure that the base answers better.",
    )
    canaries_extracted: int = Field(
        0, ge=0, description="Secrets planted in the training set that it may tell when it is asked."
    )
    canary_exposure: float = Field(
        10.0,
        ge=0,
        description="The most that the planted secrets may stand out from others of their shape (bits, their "
        "mean; who has learned nothing of them has 1.4, and a whole secret has 21).",
    )
    repeated_secrets: int = Field(
        0, ge=0, description="Addresses, numbers and keys of the training set that it may repeat word by word."
    )


def load_gate_rules(path: Path | None = None) -> GateRules:
    """The rules; unset: the owner's (`gates.yaml` in GROUPQWEN_HOME), or those that come with GroupQwen. Raises
    `ConfigError`."""
    own = home().gates
    return read(path or (own if own.is_file() else GATES), GateRules)
