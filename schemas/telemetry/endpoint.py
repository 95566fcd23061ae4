"""One HTTP port of a process: `/metrics` for Prometheus, `/health` and `/ready` for whoever keeps it running."""

from __future__ import annotations

import json
import platform
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager as Context
from contextlib import contextmanager, nullcontext
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field

from schemas.connections import NotConfigured
from schemas.telemetry.build import release
from schemas.telemetry.vitals import Status, Vitals

METRICS_HOST: Final = Field("127.0.0.1", min_length=1, validation_alias="DAYBOOK_METRICS_HOST")
"""The field of a process that serves metrics: which address of this machine it listens on; one variable for all."""

_REQUEST_TIMEOUT_S: Final = 10
"""A caller that is slower than that to say what it wants is not waited for."""

_Start = Callable[[str, list[tuple[str, str]]], Any]


def serving(
    service: str,
    host: str,
    port: int | None,
    vitals: Vitals,
    *,
    variable: str,
    registry: CollectorRegistry = REGISTRY,
) -> Context[None]:
    """A context in which the endpoint is served by threads of its own; nothing is, without a port.

    `service` labels what is told of the process as a whole. `variable` is the setting that the port comes from.

    Raises:
        NotConfigured: on entering, when the port cannot be listened on.
    """
    return nullcontext() if port is None else _serving(service, host, port, vitals, variable, registry)


@contextmanager
def _serving(
    service: str, host: str, port: int, vitals: Vitals, variable: str, registry: CollectorRegistry
) -> Iterator[None]:
    kind = _ServerOfIPv6 if ":" in host else _Server
    try:
        server = kind((host, port), _Handler)
    except OSError as error:
        raise NotConfigured(
            f"{variable}: port {port} of {host} cannot be listened on: {error.strerror or error}"
        ) from error
    about = _About(service, vitals)
    registry.register(about)
    server.set_app(_Application(vitals, registry))
    thread = threading.Thread(target=server.serve_forever, name="endpoint", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        registry.unregister(about)


class _About(Collector):
    """What is told of the process as a whole, as of the moment that it is asked."""

    def __init__(self, service: str, vitals: Vitals) -> None:
        self._service = service
        self._vitals = vitals
        self._build = {"version": release(), "python": platform.python_version(), "service": service}

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("daybook_build", "Which release runs here.", value=self._build)
        for name, about, ask in (
            ("daybook_healthy", "1 while the process is alive: its loop turns.", self._vitals.health),
            ("daybook_ready", "1 while the process does its work.", self._vitals.ready),
        ):
            gauge = GaugeMetricFamily(name, about, labels=["service"])
            gauge.add_metric([self._service], float(ask().ok))
            yield gauge


class _Application:
    def __init__(self, vitals: Vitals, registry: CollectorRegistry) -> None:
        self._metrics = make_wsgi_app(registry)
        self._asked: dict[str, Callable[[], Status]] = {"/health": vitals.health, "/ready": vitals.ready}

    def __call__(self, environ: dict[str, Any], start_response: _Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start_response)
            return found
        ask = self._asked.get(path)
        if ask is None:
            return _json("404 Not Found", {"error": "not_found", "paths": ["/metrics", *self._asked]}, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _json("405 Method Not Allowed", {"error": "method_not_allowed"}, start_response)
        status = ask()
        answer = {"status": "ok" if status.ok else "failing", "reason": status.reason, "details": dict(status.details)}
        return _json("200 OK" if status.ok else "503 Service Unavailable", answer, start_response)


def _json(status: str, answer: dict[str, Any], start_response: _Start) -> list[bytes]:
    body = json.dumps(answer).encode() + b"\n"
    start_response(
        status,
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # The base class asks the domain name system for our name, which may take seconds and which nobody needs.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is no error of ours."""


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no news."""
