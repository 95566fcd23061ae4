"""The real log cleaner over the events: compacted per aggregate, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from schemas.connections import Connections
from tests.conftest import PARTITIONS
from tests.processes import Process, environment, until
from tests.wire import Wire, configure, deposit, opening, read_all

pytestmark = pytest.mark.faults


def test_the_log_cleaner_removes_no_event(deployed: Connections, start: Callable[..., Process]) -> None:
    """The cleaner shows that it ran over the partitions by removing a record that has a newer one under its key."""
    service = start("command_service", env=environment(deployed))
    accounts = [f"C-{n}" for n in range(12)]
    events = deployed.topics.events
    with Wire(deployed, PARTITIONS) as wire, AdminClient(deployed.kafka()) as admin:
        configure(
            admin, events, {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "1"}
        )
        for _ in range(5):
            wire.decide(*[opening(a) for a in accounts], *[deposit(a, 5) for a in accounts])
        before = [(m.partition(), m.offset(), m.key(), m.value()) for m in read_all(deployed, events)]
        service.stop()
        canary = _Canary(deployed)

        canary.write(b"old")
        until(lambda: _rolled(canary), "cleaned segment in every partition", 120)

        after = [
            (m.partition(), m.offset(), m.key(), m.value())
            for m in read_all(deployed, events)
            if m.key() != _Canary.KEY
        ]
        assert after == before


def _rolled(canary: _Canary) -> bool:
    """Write on, which rolls the segments, until the cleaner has removed the first canary everywhere."""
    canary.write(b"new")
    return not canary.old_is_there()


class _Canary:
    """A record in every partition whose key is written again: what compaction may remove, and does when it runs."""

    KEY = b"canary"

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._producer = Producer(connections.kafka())

    def write(self, value: bytes) -> None:
        for partition in range(PARTITIONS):
            self._producer.produce(self._connections.topics.events, value, self.KEY, partition)
        assert self._producer.flush(30) == 0

    def old_is_there(self) -> bool:
        return any(
            m.value() == b"old"
            for m in read_all(self._connections, self._connections.topics.events)
            if m.key() == self.KEY
        )
