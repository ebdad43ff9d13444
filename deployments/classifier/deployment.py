"""The Classifier as a Serve deployment. Rules today; whatever replaces them keeps `classify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.routing import Routing
from deployments.classifier.rules import Classification, classify
from deployments.contract import ChatRequest
from deployments.serving import deployment

QUERY_CHARS = 20_000
"""The rules read this much of each end of a message: patterns over megabytes would hold up the loop."""


@deployment
class Classifier:
    """Says what kind of query this is."""

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`: at the start, and anew without a restart."""
        self._routing = Routing.model_validate(config["routing"])

    async def classify(self, request: ChatRequest, embedding: list[float] | None = None) -> Classification:
        """Classify a request; `embedding` is the cache's, where it made one, so that none is made twice."""
        return classify([_shortened(message) for message in request.messages], self._routing)


def _shortened(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str) and len(content) > 2 * QUERY_CHARS:
        return {**message, "content": content[:QUERY_CHARS] + content[-QUERY_CHARS:]}
    return message
