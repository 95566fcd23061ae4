"""`daybook-projector NAME`: wires settings, clients and loop. Exit codes: 0 stopped, 1 cannot go on, 2 wrong usage."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from projectors.balances import BalancesProjector
from projectors.progress import Progress, State
from projectors.projector import CannotProject, Projector
from projectors.redis_functions import connect
from projectors.runner import Runner, consumer
from projectors.settings import AnalyticsSettings, ProjectorSettings
from projectors.source import NoSource, Source, SourceUnavailable, identify
from schemas.codec import Codec
from schemas.connections import Connections, NotConfigured
from schemas.keyring import KeyRing
from schemas.login import LoginWatch
from schemas.registry import Registry, SchemaNotRegistered, look_up_patiently
from schemas.telemetry import endpoint, logs, traces
from schemas.telemetry.quiet import kafka_logger

_log = logging.getLogger("daybook-projector")

_RETRY_S: Final = 2.0
"""How often Kafka is asked at the start, when services are started side by side and it is not up yet."""


Make = Callable[[Source], Projector]


def _balances(connections: Connections, _: ExitStack) -> Make:
    try:
        redis = connect(connections.redis())
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_REDIS_URL: {error}") from None
    return lambda source: BalancesProjector(redis, source)


def _analytics(connections: Connections, _: ExitStack) -> Make:
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


def _search(connections: Connections, ends: ExitStack) -> Make:
    # Slow to import, and the other projectors do without.
    from projectors.elasticsearch import connect as connect_search  # noqa: PLC0415
    from projectors.holders import KeyTopic  # noqa: PLC0415
    from projectors.search import SearchProjector  # noqa: PLC0415

    indices = connections.indices
    try:
        client = connect_search(connections.elasticsearch())
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_ELASTICSEARCH_URL: {error}") from None
    # Without the keys that open holders' keys, every holder would look erased.
    holders = KeyTopic(connections, KeyRing.of(connections))
    ends.callback(holders.close)
    return lambda source: SearchProjector(client, indices, source, holders)


PROJECTORS: Final[Mapping[str, Callable[[Connections, ExitStack], Make]]] = {
    "analytics": _analytics,
    "balances": _balances,
    "search": _search,
}
"""By name: what checks a projector's configuration, and makes it once it is known which log is read. What is to be
closed at the end is left with the stack."""

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
    service, text = f"projector-{name}", f"%(asctime)s %(levelname)s projector={name} %(name)s: %(message)s"
    logs.set_up(service, text=text)
    try:
        settings = ProjectorSettings.from_environment()
        connections = Connections.from_environment()
        # Instances have no names of their own. In a container, this is the container's.
        instance = socket.gethostname()
        logs.set_up(service, settings.log_level, settings.log_format, instance=instance, text=text)
        _run(name, service, settings, connections, instance)
    except NotConfigured as error:
        _log.error("%s", error)
        return 2
    except (CannotProject, NoSource, SchemaNotRegistered, KafkaException) as error:
        _log.error("stopped: %s", error)
        return 1
    _log.info("stopped")
    return 0


def _run(name: str, service: str, settings: ProjectorSettings, connections: Connections, instance: str) -> None:
    progress = Progress(name, REGISTRY)
    with ExitStack() as ends:
        port = settings.metrics_port
        ends.enter_context(
            endpoint.serving(
                service,
                settings.metrics_host,
                None if port is None else port + _METRICS_PORTS.index(name),
                progress,
                variable="DAYBOOK_PROJECTOR_METRICS_PORT",
            )
        )
        tracer = traces.tracer(service, instance)
        if tracer is not None:
            ends.callback(tracer.close)
        if name == _ACTIVITY:
            _run_activity(connections, progress, tracer)
        else:
            _run_runner(name, settings, connections, progress, tracer, ends)


def _run_runner(
    name: str,
    settings: ProjectorSettings,
    connections: Connections,
    progress: Progress,
    tracer: traces.Tracer | None,
    ends: ExitStack,
) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    make = PROJECTORS[name](connections, ends)
    source = _wait_for_source(connections, stopping, progress)
    if source is None:
        return
    with Registry(connections) as registry:
        codec = Codec(registry)

        def look_up() -> None:
            progress.pulse.beat("looking up the schemas")
            codec.look_up_events(connections.topics.events)

        # Known before the first event, so that the projector does not depend on the registry later.
        if not look_up_patiently(look_up, stopping, lambda why: _waits(progress, why, "registry")):
            return
        progress.entered(State.STARTING)
        runner = Runner(
            make(source),
            consumer(connections, name, progress.brokers),
            source.topic,
            codec,
            progress,
            batch_events=settings.batch_events,
            tracer=tracer,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        if stopping.is_set():
            runner.stop()
        runner.run()


def _waits(progress: Progress, why: str, reason_class: str) -> None:
    _log.warning("%s", why, extra={"reason_class": reason_class})
    progress.entered(State.WAITING, why, reason_class)


def _run_activity(connections: Connections, progress: Progress, tracer: traces.Tracer | None) -> None:
    try:
        # An extra that not every installation has, and slow to import.
        from projectors.activity.program import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotConfigured(
            f"the activity needs the package {error.name}, which is not installed: `pip install 'daybook[activity]'`"
        ) from error
    run(connections, progress, tracer, _wait_for_source)


def _wait_for_source(connections: Connections, stopping: threading.Event, progress: Progress) -> Source | None:
    """The log to read, once Kafka says which it is; None when we are stopped. Raises `NoSource`, `NotConfigured`."""
    told = False
    login = LoginWatch(connections)
    with AdminClient(connections.kafka() | login.options, logger=kafka_logger()) as admin:
        while not stopping.is_set():
            progress.pulse.beat("asking Kafka which log it has")
            try:
                source = identify(admin, connections.topics.events)
            except SourceUnavailable as error:
                login.check(admin)
                if not told:
                    _waits(progress, f"waiting for Kafka at {connections.kafka_bootstrap}: {error}", "kafka")
                told = True
            else:
                progress.entered(State.STARTING)
                return source
            stopping.wait(_RETRY_S)
    return None


if __name__ == "__main__":
    sys.exit(main())
