"""The root of a canary's application: Serve wants one, and it has nothing to do but hold the variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.serving import deployment


@deployment
class Trial:
    """New versions of some variants, which the Router of the main application asks by their names."""

    def __init__(self, variants: Mapping[str, Any]) -> None:
        self._names = sorted(variants)

    async def names(self) -> list[str]:
        """What is tried."""
        return self._names
