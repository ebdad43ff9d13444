"""What tokens cost, at the catalog's prices. Pure."""

from __future__ import annotations

from configs.adapters import base_of
from configs.catalog import Catalog


def cost_of(variant: str | None, prompt_tokens: int, completion_tokens: int, catalog: Catalog) -> float:
    """US dollars, an adapter's as its base's; nothing for a variant that the catalog does not know."""
    spec = catalog.variants.get(base_of(variant or ""))
    return (prompt_tokens * spec.price.input + completion_tokens * spec.price.output) / 1e6 if spec else 0.0
