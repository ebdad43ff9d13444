"""What `groupqwen cache calibrate` has learned of P(same answer), of one embedder. Pure."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from deployments.cache.likeness import FEATURES, SHIPPED, Likeness

logger = logging.getLogger("ray.serve")


def write_likeness(path: Path, likeness: Likeness, embedder: str, pairs: int) -> None:
    """Keep it, with what it is of."""
    weights = dict(zip(("bias", *FEATURES), likeness.weights.tolist(), strict=True))
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps({"embedder": embedder, "pairs": pairs, "weights": weights}, indent=1))
    staged.replace(path)


def likeness_at(path: Path, embedder: str) -> Likeness:
    """What was learned of this embedder; what is shipped where nothing was, or it cannot be read."""
    try:
        said = json.loads(path.read_text())
        if said["embedder"] != embedder:
            logger.warning("%s was made with another embedder and is not used", path)
            return SHIPPED
        weights = np.array([float(said["weights"][name]) for name in ("bias", *FEATURES)])
    except FileNotFoundError:
        return SHIPPED
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not used: %r", path, error)
        return SHIPPED
    return Likeness(weights) if np.isfinite(weights).all() else SHIPPED
