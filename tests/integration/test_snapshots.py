"""Snapshots on real servers: what they hold, what a restore reads instead of them, and when they are not used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.commands import Refund
from schemas.connections import Connections
from schemas.snapshots import MARK_KEY, RestoreMark
from schemas.topics import partition_of
from tests.conftest import PARTITIONS
from tests.processes import Process, environment, until
from tests.snapshotted import check_snapshots
from tests.wire import Wire, deposit, make, opening, read_all, withdrawal

EVERY = 20
"""One event is less than a tenth of it, so it is not snapshotted before a stop."""
ACCOUNT = "A-1"
RESTORED = "command ids, of partitions"
HOME = partition_of(ACCOUNT, PARTITIONS)


@pytest.fixture
def wire(deployed: Connections) -> Iterator[Wire]:
    with Wire(deployed, PARTITIONS) as wire:
        yield wire


@pytest.fixture
def service(wire: Wire, start: Callable[..., Process]) -> Process:
    return start("command_service", env=snapshotting(wire))


def snapshotting(wire: Wire, **more: str) -> dict[str, str]:
    names = {"DAYBOOK_COMMAND_SERVICE_SNAPSHOT_EVERY": str(EVERY), "DAYBOOK_COMMAND_SERVICE_SNAPSHOTS_CHECKED": "1"}
    return environment(wire.connections, **(names | more))


def restored(service: Process) -> tuple[int, int, int]:
    """How many accounts the last restore gave, from how many snapshots and events."""
    last = re.findall(r"restored (\d+) accounts from (\d+) snapshots and (\d+) events", service.output)[-1]
    return int(last[0]), int(last[1]), int(last[2])


def written(wire: Wire) -> list[Message]:
    return [m for m in read_all(wire.connections, wire.topics.snapshots) if m.partition() == HOME]


def mark(wire: Wire) -> RestoreMark | None:
    """The partition's mark as it is now."""
    marks = [m for m in written(wire) if m.key() == MARK_KEY]
    return wire.codec.decode_mark(marks[-1].value()) if marks and marks[-1].value() else None


def a_mark(wire: Wire, after: int = 0) -> RestoreMark:
    """The partition's mark once there is one that was taken after a time."""

    def newer() -> RestoreMark | None:
        found = mark(wire)
        return found if found is not None and found.taken_at > after else None

    found = until(newer, "restore mark", 30)
    assert found is not None
    return found


def put(wire: Wire, key: bytes, value: bytes | None) -> None:
    producer = Producer(wire.connections.kafka())
    producer.produce(wire.topics.snapshots, value, key, HOME)
    assert producer.flush(30) == 0


def again(service: Process) -> None:
    """Stopped and started anew."""
    times = service.output.count(RESTORED)
    assert service.stop() == 0
    service.start()
    service.said(RESTORED, times=times + 1)


def test_a_restart_reads_the_snapshots_and_only_the_events_after_the_mark(wire: Wire, service: Process) -> None:
    wire.decide(opening(ACCOUNT), *(deposit(ACCOUNT, n) for n in range(1, EVERY)))
    found = a_mark(wire)
    assert (found.accounts, found.partition) == (1, HOME)

    wire.decide(withdrawal(ACCOUNT, 5))
    again(service)

    assert restored(service) == (1, 1, 1)
    drawn, refund = wire.decide(
        withdrawal(ACCOUNT, 186), make(Refund, ACCOUNT, amount_minor=5, currency="EUR", withdrawal_sequence=EVERY + 1)
    )
    assert (drawn.code, refund.accepted, refund.sequence) == ("insufficient_funds", True, EVERY + 2)

    wire.decide(deposit(ACCOUNT, 1))
    again(service)

    assert restored(service) == (1, 2, 0), "before a stop, what is nearly due is written"
    assert check_snapshots(wire) == 2


def test_what_another_program_wrote_is_written_anew(wire: Wire, service: Process) -> None:
    wire.decide(opening(ACCOUNT), *(deposit(ACCOUNT, n) for n in range(1, EVERY)))
    first = a_mark(wire)
    # As a release with another way to compute states would, in the middle of its first round.
    snapshot = next(m.value() for m in written(wire) if m.key() == ACCOUNT.encode())
    assert snapshot is not None
    put(wire, ACCOUNT.encode(), snapshot[:5] + bytes(8) + snapshot[13:])

    again(service)

    assert restored(service) == (1, 0, EVERY), "all events were read, and no snapshot was used"
    assert "the snapshots are not used" in service.output
    assert a_mark(wire, after=first.taken_at).fingerprint == first.fingerprint
    taken_back = [m.value() for m in written(wire) if m.key() == MARK_KEY].count(None)
    assert taken_back == 2, "before the first round, which is of all accounts, and before this one"


def test_a_damaged_snapshot_is_named_with_what_to_do_and_costs_nothing(
    wire: Wire, service: Process, start: Callable[..., Process]
) -> None:
    wire.decide(opening(ACCOUNT), *(deposit(ACCOUNT, n) for n in range(1, EVERY)))
    found = a_mark(wire)
    assert service.stop() == 0
    snapshot = next(m.value() for m in written(wire) if m.key() == ACCOUNT.encode())
    assert snapshot is not None
    put(wire, ACCOUNT.encode(), snapshot[:-20])
    service.start()
    paid = deposit(ACCOUNT, 1)
    wire.send(paid)

    assert service.wait() == 1
    assert f"the snapshot of account {ACCOUNT} cannot be used" in service.output
    assert "DAYBOOK_COMMAND_SERVICE_SNAPSHOTS=ignore" in service.output
    healed = start("command_service", env=snapshotting(wire, DAYBOOK_COMMAND_SERVICE_SNAPSHOTS="ignore"))
    (reply,) = wire.await_replies(paid)
    assert reply.sequence == EVERY + 1
    a_mark(wire, after=found.taken_at)
    assert restored(healed) == (1, 0, EVERY)


def test_a_topic_of_events_made_anew_is_another_one(wire: Wire, service: Process) -> None:
    wire.decide(opening(ACCOUNT), *(deposit(ACCOUNT, n) for n in range(1, EVERY)))
    a_mark(wire)
    assert service.stop() == 0
    with AdminClient(wire.connections.kafka()) as admin:
        for future in admin.delete_topics([wire.topics.events]).values():
            future.result(30)
        until(lambda: wire.topics.events not in admin.list_topics(timeout=10).topics, "deleted topic", 30)
        for future in admin.create_topics([NewTopic(wire.topics.events, PARTITIONS, 1)]).values():
            future.result(30)
    service.start()

    (reply,) = wire.decide(deposit(ACCOUNT, 1))

    assert reply.code == "account_not_found"
