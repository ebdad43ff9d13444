from __future__ import annotations

import pytest
from pydantic import ValidationError

from deployments.router.canary import Canary, CanaryRules


def test_it_takes_its_share_of_its_variants_and_nothing_else() -> None:
    canary = Canary(CanaryRules(share=0.1, variants=("small",)))
    ids = [f"request-{n}" for n in range(10_000)]
    taken = [name for name in ids if canary.takes("small", name)]
    assert 900 < len(taken) < 1100
    assert taken == [name for name in ids if canary.takes("small", name)], "the same request, the same answer"
    assert not any(canary.takes("large", name) for name in ids)


@pytest.mark.parametrize(("share", "takes"), [(0.0, False), (1.0, True)])
def test_nothing_and_everything_are_exact(share: float, takes: bool) -> None:
    canary = Canary(CanaryRules(share=share, variants=("small",)))
    assert {canary.takes("small", f"{n}") for n in range(1000)} == {takes}


def test_it_counts_what_became_of_them() -> None:
    canary = Canary(CanaryRules(share=0.5, variants=("a", "b")))
    for outcome in ("answered", "answered", "failed"):
        canary.ended(outcome)  # type: ignore[arg-type]
    assert canary.report() == {"share": 0.5, "variants": ["a", "b"], "answered": 2, "failed": 1}


def test_a_share_is_one() -> None:
    with pytest.raises(ValidationError):
        CanaryRules(share=10, variants=())
