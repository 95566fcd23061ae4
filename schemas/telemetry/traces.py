"""OpenTelemetry traces of commands on their way to the read models; off unless the standard variables switch them on.

The client makes a span for a command and sends its identity along in the header `traceparent` (W3C Trace Context). The
command service makes a span below that, whose identity it puts on the events and the reply; a projector makes one for
each event below that. Only records that bear a sampled identity cost anything.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) says where the collector is and switches traces
on; `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and the other variables of the SDK mean what they mean everywhere. The
protocol is `http/protobuf`.

An error in tracing costs the span alone: neither a span nor a tracer raises one to whoever is traced.
"""

from __future__ import annotations

import logging
import os
import threading
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

_log: Final = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first that is set counts."""
_PROTOCOL: Final = "http/protobuf"

_CLOSE_MS: Final = 3_000
"""For so long a process that ends waits for its last spans to be taken."""

_SAMPLED: Final = 0x01

_told = False
"""Whether an error in tracing was told: what fails once may fail thousands of times a second."""


class Span:
    """One step of a command's way. To be ended once, by any thread."""

    def __init__(self, span: OtelSpan | None) -> None:
        """Without a span of OpenTelemetry's, one that leaves no trace."""
        self._span = span

    @property
    def traceparent(self) -> bytes | None:
        """What to put into the header of what this step leads to; None when the span is not sampled."""
        if self._span is None:
            return None
        try:
            context = self._span.get_span_context()
            if not context.trace_flags & _SAMPLED:
                return None
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()
        except Exception:
            _tell()
            return None

    def note(self, **attributes: str | int) -> None:
        """What is known of the step by now. In an attribute's name, `__` stands for a dot."""
        if self._span is None:
            return
        try:
            self._span.set_attributes(_dotted(attributes))
        except Exception:
            _tell()

    def end(self, error: str | None = None) -> None:
        """The step is done, or failed with an error."""
        if self._span is None:
            return
        try:
            if error is not None:
                from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra, not always installed

                self._span.set_status(Status(StatusCode.ERROR, error))
            self._span.end()
        except Exception:
            _tell()


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
        try:
            from opentelemetry.trace import SpanKind  # noqa: PLC0415 - an extra that is not always installed

            span = self._tracer.start_span(
                name,
                context=None if parent is None else _context(parent),
                kind=SpanKind[kind],
                attributes=_dotted(attributes),
                start_time=None if since_us is None else since_us * 1000,
            )
        except Exception:
            _tell()
            return Span(None)
        return Span(span)

    def close(self) -> None:
        """Send what has ended, for a few seconds at most; what is not taken by then is lost."""
        # The SDK sends what is queued as it shuts down. It tries for ten seconds and more, whatever bound it is given,
        # and a thread that is a daemon is left behind when the process ends.
        shutting = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        shutting.start()
        shutting.join(_CLOSE_MS / 1000)


def tracer(service: str, instance: str | None = None) -> Tracer | None:
    """What makes this process's spans; None when traces are off. `service` is what `OTEL_SERVICE_NAME` defaults to.

    Raises:
        NotConfigured: traces are switched on, and the packages for them are not installed, or the variables ask for
            another protocol than there is.
    """
    variable = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if (
        variable is None
        or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    ):
        return None
    asked = next((name for name in _PROTOCOLS if os.environ.get(name)), None)
    if asked is not None and os.environ[asked].strip().lower() != _PROTOCOL:
        raise NotConfigured(
            f'{asked} is "{os.environ[asked]}", and traces are sent by {_PROTOCOL} alone: set '
            f"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL={_PROTOCOL} and, in {variable}, a port that takes it (4318 by "
            "custom), or switch traces off with OTEL_TRACES_EXPORTER=none"
        )
    try:
        # An extra that is not always installed, and slow to import.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotConfigured(
            f"{variable} is set, which switches traces on, but {error.name} is not installed: `pip install "
            "'daybook[tracing]'`, unset the variable, or set OTEL_TRACES_EXPORTER=none"
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


def _tell() -> None:
    """Log the error that is being handled, if it is the first."""
    global _told  # noqa: PLW0603 - of the whole process, as the log is
    if not _told:
        _told = True
        _log.warning("a step could not be traced, and maybe more that are not told of; the work goes on", exc_info=True)


def _context(traceparent: bytes) -> Context:
    from opentelemetry.context import Context as NewContext  # noqa: PLC0415 - an extra that is not always installed
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent.decode("ascii", "replace")}, NewContext())


def _dotted(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
