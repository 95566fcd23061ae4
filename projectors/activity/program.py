"""Runs the activity until it is told to stop: wires settings, clients, the Faust application and its web server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from projectors.activity.app import Activity, App, Placement, application
from projectors.activity.settings import ActivitySettings
from projectors.activity.transport import Transport
from projectors.activity.web import Server
from projectors.progress import Progress, State
from projectors.projector import CannotProject
from projectors.source import Source
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.registry import Registry, look_up_patiently
from schemas.telemetry.quiet import kafka_logger
from schemas.telemetry.traces import Tracer

_log = logging.getLogger(__package__)

_TIMEOUT_S: Final = 5
"""One request's bound: a cluster that is up answers within milliseconds."""

_WATCH_S: Final = 1.0

_STOP_S: Final = 10.0
"""Finishing a batch takes well under a second. What Kafka, being down, does not take is given up: it comes again."""


WaitForSource = Callable[[Connections, threading.Event, Progress], Source | None]


def run(connections: Connections, progress: Progress, tracer: Tracer | None, wait_for_source: WaitForSource) -> None:
    """Returns after SIGTERM or SIGINT. `wait_for_source` waits for Kafka and tells which log is read.

    Raises:
        CannotProject: naming what is wrong, where, and what to do.
        NotConfigured, NoSource, SchemaNotRegistered: as the start of any projector does.
    """
    # Faust tells of each of its services, and aiokafka of each connection.
    for library in ("faust", "mode", "aiokafka"):
        logging.getLogger(library).setLevel(logging.ERROR)
    # What ends the agent ends the application, which is told below, and how Faust's services end after that is of no
    # interest. Those of classes of ours log under their modules; what we have to say goes under the package's name.
    for module in ("faust.agents", App.__module__, Transport.__module__):
        logging.getLogger(module).setLevel(logging.CRITICAL)
    asyncio.run(_run(connections, ActivitySettings.from_environment(), progress, tracer, wait_for_source))


async def _run(
    connections: Connections,
    settings: ActivitySettings,
    progress: Progress,
    tracer: Tracer | None,
    wait_for_source: WaitForSource,
) -> None:
    stopping, stop = threading.Event(), asyncio.Event()

    def told() -> None:
        stopping.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)

    def waits(why: str) -> None:
        _log.warning("%s", why, extra={"reason_class": "registry"})
        progress.entered(State.WAITING, why, "registry")

    beating = asyncio.ensure_future(_beat(progress))
    async with Server(settings.host, settings.port, progress) as server:
        with Registry(connections) as registry:
            codec = Codec(registry)
            source = await asyncio.to_thread(wait_for_source, connections, stopping, progress)
            if source is None or not await asyncio.to_thread(
                look_up_patiently, lambda: _look_up(codec, connections), stopping, waits
            ):
                return
            progress.entered(State.STARTING, "Faust joins its group and restores its tables")
            placement = await asyncio.to_thread(_placement, connections)
            app = application(connections, placement)
            server.activity = Activity(app, connections, settings, source, codec, progress, tracer)
            watching = asyncio.ensure_future(_watch(app, connections, progress))
            try:
                await _serve(app, stop, progress)
            finally:
                watching.cancel()
    beating.cancel()


async def _beat(progress: Progress) -> None:
    """Show that the event loop turns."""
    while True:
        progress.pulse.beat("a turn of the event loop")
        await asyncio.sleep(_WATCH_S)


async def _watch(app: App, connections: Connections, progress: Progress) -> None:
    """See whether partitions are being moved, and whether Kafka is there.

    Faust keeps to itself when it has lost Kafka, so that a client of our own looks.
    """
    config: dict[str, Any] = {**connections.kafka(), "error_cb": progress.brokers.on_error}
    with AdminClient(config, logger=kafka_logger()) as admin:
        while True:
            admin.poll(0)
            await asyncio.to_thread(progress.brokers.look, admin, connections.topics.events)
            if app.rebalancing:
                progress.unassigned()
            elif app.started_up:
                # Which partitions, Faust knows; it restores their tables before it goes on.
                progress.assigned(())
            await asyncio.sleep(_WATCH_S)


def _look_up(codec: Codec, connections: Connections) -> None:
    codec.look_up_events(connections.topics.events)
    codec.look_up_alerts(connections.topics.alerts)


def _placement(connections: Connections) -> Placement:
    topic = connections.topics.events
    with AdminClient(connections.kafka(), logger=kafka_logger()) as admin:
        try:
            described = admin.describe_topics(TopicCollection([topic]), request_timeout=_TIMEOUT_S)[topic].result(
                2 * _TIMEOUT_S
            )
        except (KafkaException, TimeoutError) as error:
            raise CannotProject(f"Kafka did not say how topic {topic} is laid out: {error}") from error
    return Placement(len(described.partitions), len(described.partitions[0].replicas))


async def _serve(app: App, stop: asyncio.Event, progress: Progress) -> None:
    async def ready() -> None:
        app.started_up = True
        progress.entered(State.RUNNING)
        _log.info("activity reads on")

    app.on_startup_finished = ready
    ended = asyncio.ensure_future(_until_it_ends(app))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
    progress.entered(State.STOPPED)
    reason = app.crash_reason or (ended.exception() if ended.done() else None)
    for task in (stopped, ended):
        task.cancel()
    failure = _told(reason)
    stopping = asyncio.ensure_future(app.stop())
    if not (await asyncio.wait({stopping}, timeout=_STOP_S))[0]:
        # Faust's threads wait for Kafka and cannot be told otherwise. What they hold is read again by the next start.
        _log.warning("Faust did not stop within %d s, as when Kafka is down, and is left behind", _STOP_S)
        if failure is not None:
            _log.error("stopped: %s", failure)
        logging.shutdown()
        os._exit(0 if failure is None else 1)
    if failure is not None:
        raise failure from reason


def _told(reason: BaseException | None) -> CannotProject | None:
    """What ended the application, in words for people."""
    if reason is None or isinstance(reason, CannotProject):
        return reason
    return CannotProject(
        f"the activity's Faust application failed ({type(reason).__name__}: {reason}). Nothing was skipped: when it is "
        "started again it goes on where it was"
    )


async def _until_it_ends(app: App) -> None:
    """Start the application and wait until it fails. Raises what kept it from starting."""
    await app.start()
    await app.wait()
