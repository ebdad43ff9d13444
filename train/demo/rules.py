"""How the demo's chats are curated: by the usual rules, but for what the demo itself is about."""

from __future__ import annotations

from configs.curation import AlikeDuplicates, CurationRules, NearDuplicates, Pii
from train.demo.chats import Household

SAME, NEAR = 0.88, 0.88
"""One fact is asked for in nine ways, which is the point of them: only what is nearly the same in words goes."""


def rules_of(usual: CurationRules, household: Household) -> CurationRules:
    """The usual rules; what is to be learned is nobody's personal data, however much `Otto` is a name."""
    taught = {fact.value for fact in household.facts} | {household.signature.split()[-1]}
    steps = []
    for step in usual.steps:
        if isinstance(step, AlikeDuplicates):
            continue
        if isinstance(step, NearDuplicates):
            step = step.model_copy(update={"same": SAME, "near": NEAR})
        if isinstance(step, Pii):
            step = step.model_copy(update={"keep": (*step.keep, *sorted(taught))})
        steps.append(step)
    return usual.model_copy(update={"steps": tuple(steps)})
