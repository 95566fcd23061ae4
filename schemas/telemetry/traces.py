"""OpenTelemetry traces of commands on their way to the read models; off unless the standard variables switch them on.

The client makes a span for a command and sends its identity along in the header `traceparent` (W3C Trace Context). The
command service makes a span below that, whose identity it puts on the events and the reply; a projector makes one for
each event below that. Only records that bear a sampled identity cost anything.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) says where the collector is and switches traces
on; `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and the other variables of the SDK mean what they mean everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from schemas.connections import NotConfigured
from schemas.telemetry.build import release

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer as OtelTracer

TRACEPARENT: Final = "traceparent"
"""The header that bears the identity of the span which led to a record."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CLOSE_MS: Final = 3_000
"""For so long a process that ends waits for its last spans to be taken."""

_SAMPLED: Final = 0x01


class Span:
    """One step of a command's way. To be ended once, by any thread."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> bytes | None:
        """What to put into the header of what this step leads to; None when the span is not sampled."""
        context = self._span.get_span_context()
        if not context.trace_flags & _SAMPLED:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()

    def note(self, **attributes: str | int) -> None:
        """What is known of the step by now. In an attribute's name, `__` stands for a dot."""
        self._span.set_attributes(_dotted(attributes))

    def end(self, error: str | None = None) -> None:
        """The step is done, or failed with an error."""
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra that is not always installed

        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class Tracer:
    """Makes spans, and sends them to the collector in a thread of its own."""

    def __init__(self, provider: Any, tracer: OtelTracer) -> None:
        self._provider = provider
        self._tracer = tracer

    def begin(
        self, name: str, kind: str, parent: bytes | None = None, *, since_us: int | None = None, **attributes: str | int
    ) -> Span:
        """A span that begins now, or at a time in microseconds since the Unix epoch.

        It is below the one that `parent` names, as in a `traceparent` header; without one, below the caller's current
        one. An identity that cannot be read is none. `kind` is `CLIENT`, `CONSUMER` or another of OpenTelemetry's.
        """
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - an extra that is not always installed

        span = self._tracer.start_span(
            name,
            context=None if parent is None else _context(parent),
            kind=SpanKind[kind],
            attributes=_dotted(attributes),
            start_time=None if since_us is None else since_us * 1000,
        )
        return Span(span)

    def close(self) -> None:
        """Send what has ended, for a few seconds at most."""
        self._provider.force_flush(_CLOSE_MS)
        self._provider.shutdown()


def tracer(service: str, instance: str | None = None) -> Tracer | None:
    """What makes this process's spans; None when traces are off. `service` is what `OTEL_SERVICE_NAME` defaults to.

    Raises:
        NotConfigured: traces are switched on, and the packages for them are not installed.
    """
    variable = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if variable is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        # An extra that is not always installed, and slow to import.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotConfigured(
            f"{variable} is set, which switches traces on, but {error.name} is not installed: `pip install "
            "'daybook[tracing]'`, or unset the variable"
        ) from error
    about = {"service.version": release()}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        about["service.name"] = service
    if instance is not None:
        about["service.instance.id"] = instance
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider, provider.get_tracer("daybook", release()))


def sampled(traceparent: object) -> bytes | None:
    """A header's value, if it is the identity of a sampled span; None otherwise. Cheap, and needs no package."""
    if not isinstance(traceparent, bytes) or len(traceparent) < 55 or traceparent[52:53] != b"-":
        return None
    try:
        return traceparent if int(traceparent[53:55], 16) & _SAMPLED else None
    except ValueError:
        return None


def parent(headers: Mapping[str, object] | list[tuple[str, Any]] | None) -> bytes | None:
    """The sampled `traceparent` among a record's headers, the last if there are several; None when there is none."""
    if not headers:
        return None
    return sampled(dict(headers).get(TRACEPARENT))


def _context(traceparent: bytes) -> Context:
    from opentelemetry.context import Context as NewContext  # noqa: PLC0415 - an extra that is not always installed
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent.decode("ascii", "replace")}, NewContext())


def _dotted(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
