"""What Prometheus would read of the running stack."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Stack


def series_of(text: str) -> dict[str, set[str]]:
    """Every series of an exposition → its labels. Raises `ValueError` where it is none."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def scraped(stack: Stack) -> dict[str, set[str]]:
    """What the head's metrics agent gives: ours, Serve's, and Ray's of the machine."""
    return series_of(httpx.get(f"http://127.0.0.1:{stack.settings.ports.metrics}/metrics", timeout=30).text)
