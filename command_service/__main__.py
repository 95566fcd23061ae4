"""`daybook-command-service`: wires settings, clients and the loop."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from command_service.assignment import CommandsUnreadable
from command_service.instance import numbered
from command_service.packing import SnapshotDamaged
from command_service.producer import ProducerLost
from command_service.restore import LogDamaged, RestoreStalled
from command_service.samples import SnapshotDiffers
from command_service.settings import Settings
from command_service.spill import SpillFailed
from command_service.transaction import CommandService, TooManyFailures
from command_service.vitals import Vitals
from schemas.codec import Codec
from schemas.commands import FOLLOW_UP_TYPES
from schemas.connections import Connections, NotConfigured
from schemas.keyring import KeyRing
from schemas.keys import WrapBroken
from schemas.login import LoginWatch
from schemas.registry import Registry, SchemaNotRegistered, look_up_patiently
from schemas.telemetry import endpoint, logs, traces
from schemas.telemetry.quiet import kafka_logger
from schemas.topics import Topics

_log: Final = logging.getLogger("command_service")

_SERVICE: Final = "command-service"

_METADATA_TIMEOUT_S: Final = 30.0

_COLLECT_AFTER: Final = 100_000
"""How many more objects must have been made than freed before Python looks for cycles among the new ones: 700 unless
told otherwise. A batch makes some ten thousand, none of them in a cycle, and looking took a tenth of the time."""


class NotDeployed(Exception):
    """The topics are not there, or not as the service needs them."""


_FAILURES: Final = (
    NotDeployed,
    SchemaNotRegistered,
    CommandsUnreadable,
    TooManyFailures,
    LogDamaged,
    SnapshotDamaged,
    SnapshotDiffers,
    SpillFailed,
    WrapBroken,
    RestoreStalled,
    ProducerLost,
    KafkaException,
)
"""What ends the process with a message that says all there is to say."""


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit status: 0 after a stop, 1 after a failure, 2 when it is not configured."""
    logs.set_up(_SERVICE)
    gc.set_threshold(_COLLECT_AFTER)
    stopping = threading.Event()
    stop: list[Callable[[], None]] = [stopping.set]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [call() for call in stop])
    try:
        connections = Connections.from_environment()
        with numbered(Settings.from_environment()) as settings:
            logs.set_up(_SERVICE, settings.log_level, settings.log_format, instance=settings.instance)
            _run(connections, settings, stopping, stop)
    except NotConfigured as error:
        _log.error("not configured: %s", error)
        return 2
    except _FAILURES as error:
        _log.error("stopped: %s", error)
        return 1
    _log.info("stopped")
    return 0


def _run(
    connections: Connections, settings: Settings, stopping: threading.Event, stop: list[Callable[[], None]]
) -> None:
    """Run until `stopping`, or until one of what is in `stop` is called. Raises what ends the process."""
    vitals = Vitals()

    def waits(why: str) -> None:
        vitals.hindered(why)
        _log.warning(why)

    with ExitStack() as ends:
        ends.enter_context(
            endpoint.serving(
                _SERVICE,
                settings.metrics_host,
                settings.metrics_port,
                vitals,
                variable="DAYBOOK_COMMAND_SERVICE_METRICS_PORT",
            )
        )
        tracer = traces.tracer(_SERVICE, settings.instance)
        if tracer is not None:
            ends.callback(tracer.close)
        keeper = KeyRing.of(connections)
        partitions = _partitions(connections)
        codec = Codec(ends.enter_context(Registry(connections)))

        def look_up() -> None:
            vitals.pulse.beat("looking up the schemas")
            _look_up(codec, connections.topics)

        if not look_up_patiently(look_up, stopping, waits):
            return
        service = CommandService(connections, settings, codec, partitions, keeper, vitals, tracer)
        stop.append(service.stop)
        if not stopping.is_set():
            service.run()


def _partitions(connections: Connections) -> int:
    """The number of partitions that all topics of accounts must share."""
    topics = connections.topics
    login = LoginWatch(connections)
    with AdminClient(connections.kafka() | login.options, logger=kafka_logger()) as admin:
        found = login.metadata(admin, _METADATA_TIMEOUT_S).topics
    counts = {}
    for name in (
        topics.commands,
        topics.followups,
        topics.events,
        topics.snapshots,
        topics.replies,
        topics.subject_keys,
    ):
        if name not in found:
            raise NotDeployed(f"there is no topic {name}: `daybook deploy apply` creates it")
        counts[name] = len(found[name].partitions)
    if len(set(counts.values())) != 1:
        raise NotDeployed(
            f"these topics must have equal numbers of partitions, since partition i of each belongs together: {counts}"
        )
    return counts[topics.commands]


def _look_up(codec: Codec, topics: Topics) -> None:
    codec.look_up_events(topics.events)
    codec.look_up_replies(topics.replies)
    codec.look_up_snapshots(topics.snapshots)
    codec.look_up_keys(topics.subject_keys)
    # Clients' commands are only read here; knowing their schemas, the service does not depend on the registry later.
    codec.look_up_commands(topics.commands)
    codec.look_up_commands(topics.followups, FOLLOW_UP_TYPES)


if __name__ == "__main__":
    sys.exit(main())
