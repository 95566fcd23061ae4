"""Commands per second of one process, with the commands already on the topic."""

from __future__ import annotations

import time
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from benchmarks.processes import running
from schemas.connections import Connections

_LOOK_EVERY_S = 0.05
_TIMEOUT_S = 300


def commands_per_second(module: str, connections: Connections, count: int, log: Path) -> float:
    """The rate from a process's first commit to its last, as its group's committed offsets show it.

    The first batch marks the beginning: starting and joining the group is not what is measured.
    """
    with AdminClient(connections.kafka()) as admin, running(module, connections, log) as process:
        deadline = time.monotonic() + _TIMEOUT_S
        first: tuple[int, float] | None = None
        while True:
            done, now = _committed(admin, connections), time.monotonic()
            if done and first is None:
                first = done, now
            if done >= count and first is not None:
                return (done - first[0]) / (now - first[1])
            if process.poll() is not None or now > deadline:
                raise RuntimeError(f"{module} has decided {done} of {count} commands and stands still; see {log}")
            time.sleep(_LOOK_EVERY_S)


def _committed(admin: AdminClient, connections: Connections) -> int:
    """How many commands are behind the group's committed offsets: the topic begins at 0, and clients' transactions
    leave no marks on it, since the preload is not transactional."""
    group = connections.topics.command_service_group
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=10)[group]
    return sum(max(0, place.offset) for place in answer.result().topic_partitions)
