"""A command's trace, from the client to the read models, as a collector receives it."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from daybook import Client, Refused
from schemas.connections import Connections
from tests.processes import Process, environment, free_port, until

pytest.importorskip("opentelemetry.sdk", reason="needs the extra `tracing`")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

Start = Callable[..., Process]


@dataclass(frozen=True)
class Received:
    """A span, as far as these tests ask."""

    service: str
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    began_ns: int
    ended_ns: int
    failed: bool
    attributes: dict[str, str]


class Collector:
    """A receiver of OTLP over HTTP that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, request: ExportTraceServiceRequest) -> None:
        assert path == "/v1/traces"
        for of_resource in request.resource_spans:
            about = {one.key: one.value.string_value for one in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans += [
                    Received(
                        about["service.name"],
                        span.name,
                        span.trace_id,
                        span.span_id,
                        span.parent_span_id,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == span.status.STATUS_CODE_ERROR,
                        {one.key: one.value.string_value for one in span.attributes},
                    )
                    for span in of_scope.spans
                ]

    def of(self, command_id: str) -> dict[str, Received]:
        """A command's spans by their services."""
        return {span.service: span for span in self.spans if span.attributes["daybook.command_id"] == command_id}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def test_one_trace_leads_from_the_client_to_the_read_models(
    deployed: Connections, start: Start, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The batches wait for a second by default; and nothing of whoever runs the tests counts.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    env = environment(deployed)
    processes = [
        start("command_service", env=env),
        start("projectors", "balances", env=env),
        start("projectors", "search", env=env),
        start("projectors", "analytics", env=env | {"DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S": "0.2"}),
        start("projectors", "activity", env=env | {"DAYBOOK_ACTIVITY_PORT": str(free_port())}),
    ]
    processes[0].said("restored ")
    for projector in processes[1:]:
        projector.said("reads on")
    with Client(deployed, user_id="tester", timeout_s=60) as client:
        opened = client.open_account("A-1", currency="EUR", holder_name="Alice")
        with pytest.raises(Refused) as refused:
            client.withdraw("A-1", "5.00 EUR")
    models = {"balances", "search", "analytics", "activity"}
    services = {"daybook-client", "command-service", *(f"projector-{model}" for model in models)}
    until(lambda: collector.of(opened.command_id).keys() == services, "the spans of all services")
    until(
        lambda: collector.of(refused.value.reply.command_id).keys() == {"daybook-client", "command-service"},
        "the spans of the refused command",
    )

    spans = collector.of(opened.command_id)
    client_span, service_span = spans["daybook-client"], spans["command-service"]
    assert {span.trace_id for span in spans.values()} == {client_span.trace_id}
    assert client_span.parent_id == b""
    assert service_span.parent_id == client_span.span_id
    for model in models:
        span = spans[f"projector-{model}"]
        assert (span.parent_id, span.name) == (service_span.span_id, f"{model} visible")
        assert span.attributes["daybook.account_id"] == "A-1"
    assert (client_span.name, service_span.name) == ("OpenAccount", "decide OpenAccount")
    assert service_span.attributes["daybook.outcome"] == "accepted"
    assert client_span.began_ns < service_span.began_ns < service_span.ended_ns
    assert not any(span.failed for span in spans.values())

    refusal = collector.of(refused.value.reply.command_id)["command-service"]
    assert (refusal.attributes["daybook.outcome"], refusal.attributes["daybook.code"]) == (
        "refused",
        "insufficient_funds",
    )
    assert refusal.trace_id != client_span.trace_id


def test_what_is_not_sampled_leaves_no_trace(
    deployed: Connections, start: Start, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    service = start("command_service", env=environment(deployed))
    service.said("restored ")
    with Client(deployed, user_id="tester", timeout_s=60) as client:
        traced = client.open_account("A-1", currency="EUR", holder_name="Alice")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with Client(deployed, user_id="tester", timeout_s=60) as client:
        client.deposit("A-1", "5.00 EUR")
    # The service sends what it has before it ends.
    assert service.stop() == 0
    assert {span.attributes["daybook.command_id"] for span in collector.spans} == {traced.command_id}


def test_traces_that_are_switched_on_without_their_packages_are_told(
    start: Start, deployed: Connections, tmp_path: Path
) -> None:
    # Python imports a module of this name at its start.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk.trace'] = None\n")
    more = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "PYTHONPATH": str(tmp_path)}
    process = start("command_service", env=environment(deployed, **more))
    assert process.wait() == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, which switches traces on, but opentelemetry" in process.output
    assert "pip install 'daybook[tracing]'" in process.output
