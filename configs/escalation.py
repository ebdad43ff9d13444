"""What happens when the chosen variant is unsure, or fails: part of `routing.yaml`."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from configs.document import Strict

Cause = Literal[
    "no_first_token",
    "stalled",
    "cut",
    "malformed",
    "engine",
    "context",
    "refused",
    "busy",
    "not_ready",
    "away",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
Step = Literal["same", "larger", "smaller", "longer", "awake"]


class Target(Strict):
    """What the owner wants to be promised; the calibration gives the threshold. One of the two."""

    accepted_wrong: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Of all questions, the most that may be answered wrongly by the smaller variant.",
    )
    quality: float | None = Field(
        None, gt=0, le=1, description="Right answers, as a share of those that the larger variant would give."
    )
    confidence: float = Field(
        0.9, ge=0.5, lt=1, description="With which the bound holds, for questions like those that were labelled."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Target:
        if (self.accepted_wrong is None) == (self.quality is None):
            raise ValueError("name one target: `accepted_wrong` or `quality`")
        return self


class EscalationRules(Strict):
    """A small variant begins, and a larger one takes over where it is unsure. Needs a calibration
    (`groupqwen router calibrate`); until there is one, nobody is escalated."""

    enabled: bool = True
    target: Target
    commit_tokens: Literal[8, 16, 32, 64] = Field(
        32,
        description="Tokens that are held back before the answer streams; a larger variant can still take over.",
    )
    late: Literal["keep", "correct", "stop"] = Field(
        "keep",
        description="When an answer that streams already loses its confidence: nothing, a marked correction by "
        "the larger variant at the end, or an end with a hint.",
    )
    late_below: float = Field(0.2, ge=0, le=1, description="P(right) of the whole answer that counts as lost.")
    self_check: bool = Field(
        False, description="Where the whole answer is asked for: also ask the variant whether its answer is right."
    )
    most_steps: int = Field(2, ge=1, le=5, description="Times that one question may move to a larger variant.")
    unjudged_quality: float = Field(
        0.3,
        ge=0,
        le=1,
        description="A variant of a lower quality (the catalog's prior) answers only who asks for it, or where "
        "nobody else can, until its confidence is calibrated or outcomes of it were learned.",
    )


class FallbackRules(Strict):
    """A variant that fails is replaced before the client has seen anything of its answer. Seconds."""

    first_token_seconds: float = Field(
        90, gt=0, description="A wait for the first token; beyond: `no_first_token`."
    )
    stall_seconds: float = Field(30, gt=0, description="Silence between tokens; beyond: `stalled`.")
    deadline_seconds: float = Field(300, gt=0, description="After which nobody else is tried.")
    cool_down_seconds: float = Field(
        20, ge=0, description="For which a variant that has failed is asked only if nobody else can answer."
    )
    after_commit: Literal["continue", "error"] = Field(
        "continue",
        description="When the client has a part of the answer: another variant goes on from there, or an error "
        "event.",
    )
    chains: dict[Cause, tuple[Step, ...]] = Field(
        default_factory=dict, description="Who is tried after which cause, in order; unset: see DEFAULT_CHAINS."
    )

    def chain(self, cause: Cause) -> tuple[Step, ...]:
        """Who is tried after `cause`."""
        return self.chains.get(cause, DEFAULT_CHAINS[cause])


DEFAULT_CHAINS: dict[Cause, tuple[Step, ...]] = {
    "no_first_token": ("smaller", "larger"),
    "stalled": ("smaller", "larger"),
    "cut": ("same", "larger", "smaller"),
    "malformed": ("same", "larger", "smaller"),
    "engine": ("larger", "smaller"),
    "context": ("longer",),
    "refused": ("larger",),
    # A full queue is told to the client, who can wait: another variant would be asked for what it is not meant
    # for.
    "busy": (),
    "not_ready": ("awake",),
    "away": ("awake",),
}
"""`same`: once more; `larger`, `smaller`: the nearest by quality; `longer`: with more context; `awake`: the best
of those in memory."""
