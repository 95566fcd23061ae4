"""`daybook-command-service`: wires settings, clients and the loop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import start_http_server

from command_service.assignment import CommandsUnreadable
from command_service.producer import ProducerLost
from command_service.restore import LogDamaged, RestoreStalled
from command_service.settings import Settings
from command_service.transaction import CommandService, TooManyFailures
from schemas.codec import Codec
from schemas.connections import Connections, NotConfigured
from schemas.registry import Registry, SchemaNotRegistered, look_up_patiently
from schemas.topics import Topics

_log: Final = logging.getLogger("command_service")

_METADATA_TIMEOUT_S: Final = 30.0


class NotDeployed(Exception):
    """The topics are not there, or not as the service needs them."""


_FAILURES: Final = (
    NotDeployed,
    SchemaNotRegistered,
    CommandsUnreadable,
    TooManyFailures,
    LogDamaged,
    RestoreStalled,
    ProducerLost,
    KafkaException,
)
"""What ends the process with a message that says all there is to say."""


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit status: 0 after a stop, 1 after a failure, 2 when it is not configured."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # The registry's client logs each request; what came of it is logged here where it matters.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stopping = threading.Event()
    stop: list[Callable[[], None]] = [stopping.set]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [call() for call in stop])
    try:
        connections, settings = Connections.from_environment(), Settings.from_environment()
        logging.getLogger().setLevel(settings.log_level)
        if settings.metrics_port is not None:
            _serve_metrics(settings.metrics_port)
        partitions = _partitions(connections)
        with Registry(connections) as registry:
            codec = Codec(registry)
            if not look_up_patiently(lambda: _look_up(codec, connections.topics), stopping, _log.warning):
                return 0
            service = CommandService(connections, settings, codec, partitions)
            stop.append(service.stop)
            if stopping.is_set():
                return 0
            service.run()
    except NotConfigured as error:
        _log.error("not configured: %s", error)
        return 2
    except _FAILURES as error:
        _log.error("stopped: %s", error)
        return 1
    _log.info("stopped")
    return 0


def _serve_metrics(port: int) -> None:
    try:
        start_http_server(port, "127.0.0.1")
    except OSError as error:
        raise NotConfigured(
            f"DAYBOOK_COMMAND_SERVICE_METRICS_PORT: {port} cannot be listened on: {error.strerror}"
        ) from error


def _partitions(connections: Connections) -> int:
    """The number of partitions that all topics of accounts must share."""
    topics = connections.topics
    with AdminClient(connections.kafka()) as admin:
        found = admin.list_topics(timeout=_METADATA_TIMEOUT_S).topics
    counts = {}
    for name in (topics.commands, topics.followups, topics.events, topics.snapshots, topics.replies):
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
    # Commands are only read here; knowing their schemas, the service does not depend on the registry later.
    codec.look_up_commands(topics.commands)


if __name__ == "__main__":
    sys.exit(main())
