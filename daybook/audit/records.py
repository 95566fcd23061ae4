"""Records as they stand in Kafka, byte for byte, of ranges of partitions: for whoever hashes them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Self

from confluent_kafka import Consumer, IsolationLevel, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from daybook import kafka
from daybook.log import log_identity, read_until
from schemas.connections import Connections


class Records:
    """Reads ranges, one after the other; a context manager. One thread uses it."""

    def __init__(self, connections: Connections, *, timeout_s: float) -> None:
        """`timeout_s` bounds each request, and how long nothing may come. Raises: `NotConfigured`."""
        self._connections = connections
        self._timeout_s = timeout_s
        self._health = kafka.Health()
        self._source: Consumer = kafka.consumer(
            connections,
            self._health,
            # A log whose beginning is gone is to be read from where it begins now, and that told.
            auto_offset_reset="earliest",
            enable_partition_eof=True,
            fetch_wait_max_ms=20,
            # Whole megabytes at a time: the round trips would cost more than the hashing.
            fetch_message_max_bytes=8 * 1024 * 1024,
            queued_min_messages=1_000_000,
            # Kafka's own checksum of each batch finds a damaged disk or wire earlier, and costs next to nothing.
            check_crcs=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    @property
    def refused(self) -> bool:
        """Whether a broker refused our login, so that waiting will not help."""
        return self._health.refused

    def partitions(self, topic: str) -> int:
        """How many a topic has. Raises: `Unreachable`, also when it is not there."""
        deadline = time.monotonic() + self._timeout_s
        (count,) = kafka.partitions(self._source, [topic], self._connections, self._health, deadline)
        return count

    def ends(
        self, topic: str, partitions: Collection[int], isolation_level: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[int, int]:
        """Where what is committed ends, by partition; or all that is written. Raises: `Unreachable`."""
        if not partitions:
            return {}
        found = kafka.ends(
            self._connections,
            [(topic, partition) for partition in partitions],
            time.monotonic() + self._timeout_s,
            isolation_level=isolation_level,
        )
        return {at.partition: at.offset for at in found}

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
        """A partition's committed records from `start` up to before `end`. Raises: `Unreachable`, `ReadTimeout`."""
        if start < end:
            self._source.assign([TopicPartition(topic, partition, start)])
            ends = [TopicPartition(topic, partition, end)]
            yield from read_until(self._source, self._connections, self._health, topic, ends, self._timeout_s)


def identity(connections: Connections, *, timeout_s: float) -> str:
    """Which log this is (`daybook.log.log_identity`). Raises: `Unreachable`."""
    with AdminClient(connections.kafka(), logger=kafka.LOG) as admin:
        return log_identity(connections, admin, time.monotonic() + timeout_s)
