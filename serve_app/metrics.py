"""This node's metrics for Prometheus: what Ray's metrics agent has, without Ray's own hundreds of series."""

from __future__ import annotations

import os

import httpx

from deployments.contract import ChatError

OURS = ("ray_groupqwen_", "ray_serve_")


async def scrape(client: httpx.AsyncClient) -> str:
    """GroupQwen's and Serve's series, in Prometheus' text format. Raises a 503 `ChatError`."""
    port = os.environ.get("GROUPQWEN_METRICS_PORT")
    if not port:
        raise ChatError("GROUPQWEN_METRICS_PORT is not set on this node.", status=503)
    try:
        scraped = await client.get(f"http://127.0.0.1:{port}/metrics")
    except httpx.HTTPError as error:
        raise ChatError("Ray's metrics agent does not answer right now.", status=503) from error
    return ours(scraped.text)


def ours(text: str) -> str:
    """The lines of our series, with their HELP and TYPE."""
    comments = tuple(f"# {kind} {prefix}" for kind in ("HELP", "TYPE") for prefix in OURS)
    lines = [line for line in text.splitlines() if line.startswith(OURS) or line.startswith(comments)]
    return "\n".join(lines) + "\n"
