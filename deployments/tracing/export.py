"""Where spans go: OpenTelemetry's SDK, set up in each process by the first request that is traced there."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from configs.home import home
from configs.tracing import FILE
from deployments.tracing.spans import Kind, Traced

logger = logging.getLogger("ray.serve")

FILE_BYTES = 20 * 2**20
"""Of `traces.jsonl`; one that is full becomes `traces.jsonl.1`, and what was in that is gone."""
EVERY_SECONDS = 1.0
KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


def start_span(trace: Traced, name: str, kind: Kind, start: int) -> Span:
    """A span that has begun at `start`, nanoseconds since 1970."""
    above = TraceContextTextMapPropagator().extract({"traceparent": trace.parent}, Context())
    return _tracer(trace.to).start_span(name, above, KINDS[kind], start_time=start)


@cache
def _tracer(to: str) -> Tracer:
    # (Whether a request is traced was decided at the Gateway: the environment's OTEL_TRACES_SAMPLER is not asked.)
    provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create({"service.name": "groupqwen"}))
    milliseconds = EVERY_SECONDS * 1e3
    provider.add_span_processor(BatchSpanProcessor(exporter(to), schedule_delay_millis=milliseconds))
    return provider.get_tracer("groupqwen")


def exporter(to: str) -> SpanExporter:
    """What takes the spans there."""
    if to == FILE:
        return FileExporter(home().logs / "traces.jsonl")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(f"{to}/v1/traces")


class FileExporter(SpanExporter):
    """One span a line, as the SDK writes it. Several processes write to one file."""

    def __init__(self, path: Path, most_bytes: int = FILE_BYTES) -> None:
        self._path, self._most = path, most_bytes

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append them, in one piece."""
        text = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
        try:
            self._append(text.encode("utf-8", "replace"))
        except OSError as error:
            logger.warning("spans are lost: %s", error)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _append(self, data: bytes) -> None:
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                opened = os.fstat(descriptor)
                if not self._path.exists() or self._path.stat().st_ino != opened.st_ino:
                    continue  # Another process has just set it aside.
                if opened.st_size and opened.st_size + len(data) > self._most:
                    os.replace(self._path, f"{self._path}.1")
                    continue
                os.write(descriptor, data)
                return
            finally:
                os.close(descriptor)
