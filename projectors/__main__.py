"""`daybook-projector NAME`: wires settings, clients and loop. Exit codes: 0 stopped, 1 cannot go on, 2 wrong usage."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY, start_http_server

from projectors.balances import BalancesProjector
from projectors.progress import Progress
from projectors.projector import CannotProject, Projector
from projectors.quiet import kafka_logger
from projectors.redis_functions import connect
from projectors.runner import Runner, consumer
from projectors.settings import AnalyticsSettings, ProjectorSettings
from projectors.source import NoSource, Source, SourceUnavailable, identify
from schemas.codec import Codec
from schemas.connections import Connections, NotConfigured
from schemas.registry import Registry, SchemaNotRegistered, look_up_patiently

_log = logging.getLogger("daybook-projector")

_RETRY_S: Final = 2.0
"""How often Kafka is asked at the start, when services are started side by side and it is not up yet."""


Make = Callable[[Source], Projector]


def _balances(connections: Connections) -> Make:
    try:
        redis = connect(connections.redis())
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_REDIS_URL: {error}") from None
    return lambda source: BalancesProjector(redis, source)


def _analytics(connections: Connections) -> Make:
    try:
        # Imported where it is wanted, since the other projectors run without what it needs.
        from projectors.analytics import AnalyticsProjector  # noqa: PLC0415
        from projectors.analytics_table import EventsTable  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise NotConfigured(f"{missing} is not installed: pip install 'daybook[analytics]'") from error
    settings = AnalyticsSettings.from_environment()
    table = EventsTable(connections)
    return lambda source: AnalyticsProjector(table, source, commit_interval_s=settings.commit_interval_s)


def _search(connections: Connections) -> Make:
    # Slow to import, and the other projectors do without.
    from projectors.elasticsearch import connect as connect_search  # noqa: PLC0415
    from projectors.search import SearchProjector  # noqa: PLC0415

    indices = connections.indices
    try:
        client = connect_search(connections.elasticsearch())
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_ELASTICSEARCH_URL: {error}") from None
    return lambda source: SearchProjector(client, indices, source)


PROJECTORS: Final[Mapping[str, Callable[[Connections], Make]]] = {
    "analytics": _analytics,
    "balances": _balances,
    "search": _search,
}
"""By name: what checks a projector's configuration, and makes it once it is known which log is read."""

_ACTIVITY: Final = "activity"
"""The one that is a program of its own, a Faust application, which the runner does not feed."""


_METRICS_PORTS: Final = ("balances", "search", "analytics", _ACTIVITY)
"""In the order of the ports that they take, so that one environment serves all projectors of a machine."""


def main(arguments: list[str] | None = None) -> int:
    """Run the projector that the command line names, until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="daybook-projector",
        description="Keep one read model up to date with the log of events, until stopped.",
        epilog="Servers and options are read from the environment and from .daybook/env; see docs/ARCHITECTURE.md.",
    )
    names = (*PROJECTORS, _ACTIVITY)
    parser.add_argument("name", metavar="NAME", choices=sorted(names), help=f"one of: {', '.join(names)}")
    name: str = parser.parse_args(arguments).name
    try:
        settings = ProjectorSettings.from_environment()
        connections = Connections.from_environment()
        logging.basicConfig(
            level=settings.log_level,
            stream=sys.stderr,
            format=f"%(asctime)s %(levelname)s projector={name} %(name)s: %(message)s",
        )
        # These clients log each request; what came of it is logged here where it matters.
        for library in ("elastic_transport", "httpx", "httpx2"):
            logging.getLogger(library).setLevel(logging.WARNING)
        _run(name, settings, connections)
    except NotConfigured as error:
        print(f"daybook-projector: {error}", file=sys.stderr)
        return 2
    except (CannotProject, NoSource, SchemaNotRegistered, KafkaException) as error:
        _log.error("stopped: %s", error)
        return 1
    _log.info("stopped")
    return 0


def _run(name: str, settings: ProjectorSettings, connections: Connections) -> None:
    if settings.metrics_port is not None:
        _serve_metrics(settings.metrics_port + _METRICS_PORTS.index(name))
    if name == _ACTIVITY:
        _run_activity(connections)
        return
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    make = PROJECTORS[name](connections)
    source = _wait_for_source(connections, stopping)
    if source is None:
        return
    with Registry(connections) as registry:
        codec = Codec(registry)
        # Known before the first event, so that the projector does not depend on the registry later.
        if not look_up_patiently(lambda: codec.look_up_events(connections.topics.events), stopping, _log.warning):
            return
        runner = Runner(
            make(source),
            consumer(connections, name),
            source.topic,
            codec,
            Progress(name, REGISTRY),
            batch_events=settings.batch_events,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        if stopping.is_set():
            runner.stop()
        runner.run()


def _run_activity(connections: Connections) -> None:
    try:
        # An extra that not every installation has, and slow to import.
        from projectors.activity.program import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotConfigured(
            f"the activity needs the package {error.name}, which is not installed: `pip install 'daybook[activity]'`"
        ) from error
    run(connections, _wait_for_source)


def _serve_metrics(port: int) -> None:
    try:
        start_http_server(port, addr="127.0.0.1")
    except OSError as error:
        raise NotConfigured(
            f"DAYBOOK_PROJECTOR_METRICS_PORT: port {port} cannot be listened on: {error.strerror}"
        ) from error


def _wait_for_source(connections: Connections, stopping: threading.Event) -> Source | None:
    """The log to read, once Kafka says which it is; None when we are stopped before. Raises `NoSource`."""
    told = False
    with AdminClient(connections.kafka(), logger=kafka_logger()) as admin:
        while not stopping.is_set():
            try:
                return identify(admin, connections.topics.events)
            except SourceUnavailable as error:
                if not told:
                    _log.warning("waiting for Kafka at %s: %s", connections.kafka_bootstrap, error)
                told = True
            stopping.wait(_RETRY_S)
    return None


if __name__ == "__main__":
    sys.exit(main())
