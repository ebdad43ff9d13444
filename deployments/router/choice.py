"""Which of those that can answer should: quality against cost and time, by the owner's exchange rate. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.routing import Exchange

PRIOR_WEIGHT = 50
"""So many learned outcomes weigh as much as the prior."""

NEVER_DOMINATED = 1e-9


@dataclass(frozen=True)
class Offer:
    """What asking a variant is likely to bring: P(right), `cost` in answers of qwen3-8b, `seconds` until the whole
    answer is there."""

    variant: str
    correct: float
    cost: float
    seconds: float

    def worth(self, exchange: Exchange) -> float:
        """On the scale of P(right)."""
        return self.correct - exchange.per_cost * self.cost - exchange.per_second * self.seconds

    def dominates(self, other: Offer) -> bool:
        """Nowhere worse, somewhere better."""
        mine, theirs = (self.correct, -self.cost, -self.seconds), (other.correct, -other.cost, -other.seconds)
        return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


def frontier(offers: Sequence[Offer]) -> list[Offer]:
    """Those that no other is better than in every respect."""
    return [offer for offer in offers if not any(other.dominates(offer) for other in offers)]


def choose(
    offers: Sequence[Offer], exchange: Exchange, last: str | None = None, stickiness: float = 0.0
) -> tuple[Offer, str]:
    """The best of the frontier, and why. `last`: who has answered in this conversation before; another must be
    better by `stickiness`."""
    best = max(frontier(offers), key=lambda offer: (offer.worth(exchange), -offer.cost))
    stays = next((offer for offer in offers if offer.variant == last), None)
    if stays is not None and stays is not best and best.worth(exchange) - stays.worth(exchange) < stickiness:
        return stays, f"the conversation stays with it (P(right) {stays.correct:.2f})"
    return best, f"P(right) {best.correct:.2f} is worth its cost and time"


def blended(learned: float | None, prior: float, questions: int) -> float:
    """P(right): what was learned, held against the prior for as long as little was."""
    if learned is None:
        return prior
    return (questions * learned + PRIOR_WEIGHT * prior) / (questions + PRIOR_WEIGHT)
