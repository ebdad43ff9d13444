"""Where the spans of requests go, and how many of them: what the owner says with `--trace`."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from configs.document import Strict

FILE = "file"
"""In place of a URL: into `traces.jsonl` beside the logs of each machine."""


class TraceRules(Strict):
    """Seen by everyone who may see Ray's dashboard: no secrets in here."""

    to: str = Field(
        description="`file`, or the base URL of an OTLP/HTTP collector; credentials for it go into "
        "OTEL_EXPORTER_OTLP_HEADERS in the environment of `up`."
    )
    share: float = Field(1.0, gt=0, le=1, description="Of all requests, drawn by chance, whatever a client says.")
    most_per_minute: int = Field(600, ge=1, description="Requests of one Gateway that are traced at most.")
    words: bool = Field(False, description="Whether questions and answers are in the spans.")

    @field_validator("to")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        if value == FILE:
            return value
        parts = urlsplit(value)
        try:
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or any(character.isspace() or not character.isprintable() for character in value):
            raise ValueError(f"say `{FILE}`, or a URL such as http://127.0.0.1:4318")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "the URL holds more than a place: Ray's dashboard shows it, so credentials go into "
                "OTEL_EXPORTER_OTLP_HEADERS"
            )
        return value.rstrip("/").removesuffix("/v1/traces")
