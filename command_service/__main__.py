"""`daybook-command-service`: wires settings, clients and the loop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import start_http_server
from pydantic import ValidationError

from command_service.restore import LogDamaged, RestoreStalled
from command_service.settings import Settings
from command_service.transaction import CommandService, TooManyFailures
from schemas.codec import Codec
from schemas.connections import Connections, NotConfigured
from schemas.registry import Registry, RegistryUnavailable, SchemaNotRegistered

_log: Final = logging.getLogger("command_service")

_METADATA_TIMEOUT_S: Final = 30.0
_REGISTRY_WAIT_S: Final = 1.0

_REGISTRY_LOADS_FOR_S: Final = 20.0
"""A registry that has just started may deny what it has not loaded yet; a few seconds are usual."""


class NotDeployed(Exception):
    """The topics are not there, or not as the service needs them."""


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit status: 0 after a stop, 1 after a failure, 2 when it is not configured."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # The registry's client logs each request; what came of it is logged here where it matters.
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stopping = threading.Event()
    stop: list[Callable[[], None]] = [stopping.set]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [call() for call in stop])
    try:
        connections, settings = Connections.from_environment(), Settings()
        if settings.metrics_port is not None:
            start_http_server(settings.metrics_port, "127.0.0.1")
        partitions = _partitions(connections)
        with Registry(connections.registry_url, ca_location=connections.registry_ssl_ca) as registry:
            codec = Codec(registry)
            if not _look_up_schemas(codec, connections, stopping):
                return 0
            service = CommandService(connections, settings, codec, partitions)
            stop.append(service.stop)
            if stopping.is_set():
                return 0
            service.run()
    except (NotConfigured, ValidationError) as error:
        _log.error("not configured: %s", error)
        return 2
    except (NotDeployed, SchemaNotRegistered, TooManyFailures, LogDamaged, RestoreStalled, KafkaException) as error:
        _log.error("stopped: %s", error)
        return 1
    _log.info("stopped")
    return 0


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


def _look_up_schemas(codec: Codec, connections: Connections, stopping: threading.Event) -> bool:
    """Look up what the service writes, waiting for a registry that is down. False: it was stopped meanwhile.

    Raises:
        SchemaNotRegistered: the registry has gone on denying a schema for longer than one takes to load its storage.
    """
    told, denied_since = "", None
    while not stopping.is_set():
        try:
            codec.write_events(connections.topics.events)
            codec.write_replies(connections.topics.replies)
            # Commands are only read here; knowing their schemas, the service does not depend on the registry later.
            codec.write_commands(connections.topics.commands)
        except (RegistryUnavailable, SchemaNotRegistered) as error:
            denied_since = (denied_since or time.monotonic()) if isinstance(error, SchemaNotRegistered) else None
            if denied_since is not None and time.monotonic() - denied_since > _REGISTRY_LOADS_FOR_S:
                raise
            if told != type(error).__name__:
                _log.warning("waiting for the registry: %s", error)
            told = type(error).__name__
            stopping.wait(_REGISTRY_WAIT_S)
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
