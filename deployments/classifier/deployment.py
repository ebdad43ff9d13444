"""The Classifier as a Serve deployment: the layers, and the artifact that `groupqwen router train` has written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.home import home
from configs.routing import Routing
from deployments.classifier.layers import Layers
from deployments.classifier.learned import FAMILIES, ROUTER, ArtifactError, Learned, load_learned
from deployments.classifier.rules import Classification
from deployments.contract import ChatRequest
from deployments.serving import deployment

logger = logging.getLogger("ray.serve")


@deployment
class Classifier:
    """Says what kind of query this is."""

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Rules from `user_config`, and what was learned: at the start, and anew without a restart."""
        routing, own = Routing.model_validate(config["routing"]), home()
        self._layers = Layers(routing, learned_at(own.router), families=learned_at(own.families, FAMILIES))

    async def classify(self, request: ChatRequest, embedding: bytes | None = None) -> Classification:
        """Classify a request. `embedding`: its question's, as the cache has made it (float32, little-endian)."""
        return self._layers.read(request, None if embedding is None else np.frombuffer(embedding, "<f4"))


def learned_at(path: Path, kind: str = ROUTER) -> Learned | None:
    """The artifact, or None where there is none that can be read."""
    try:
        return load_learned(path, kind)
    except FileNotFoundError:
        return None
    except (ArtifactError, OSError) as error:
        logger.warning("what was learned is not used: %s", error)
        return None
