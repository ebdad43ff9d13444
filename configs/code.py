"""A fingerprint of the code that replicas run."""

from __future__ import annotations

import hashlib
from pathlib import Path

PACKAGES = ("configs", "deployments", "serve_app")
SUFFIXES = (".py", ".sql")


def code_id() -> str:
    """The same for the same files; when it changes, every replica is replaced."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in SUFFIXES:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
