"""What tests of several packages need."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("a busy machine", settings.default, deadline=None)
settings.load_profile("a busy machine")


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Programs that a model has written can be run here."""
    from train.evaluate.sandbox import SandboxMissing, passes

    try:
        passes("pass")
    except SandboxMissing as missing:
        pytest.skip(str(missing))
