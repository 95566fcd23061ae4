"""Snapshots while processes are killed and transactions aborted: what is restored is what the events say."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient

from schemas.connections import Connections
from tests.conftest import PARTITIONS
from tests.faults.test_command_service_faults import check_every_command_has_one_outcome, load
from tests.processes import Process, environment, until
from tests.snapshotted import check_snapshots
from tests.wire import Wire, configure, opening, read_all

pytestmark = pytest.mark.faults

EVERY = 60
"""A round takes several transactions of the commands that are sent here, so kills meet it at any point."""


@pytest.fixture
def wire(deployed: Connections) -> Iterator[Wire]:
    with Wire(deployed, PARTITIONS) as wire:
        yield wire


def snapshotting(wire: Wire, instance: int = 0, **more: str) -> dict[str, str]:
    names = {
        "DAYBOOK_COMMAND_SERVICE_INSTANCE": str(instance),
        "DAYBOOK_COMMAND_SERVICE_SNAPSHOT_EVERY": str(EVERY),
        "DAYBOOK_COMMAND_SERVICE_SNAPSHOTS_CHECKED": "1",
        # Small transactions, few accounts in memory.
        "DAYBOOK_COMMAND_SERVICE_BATCH": "40",
        "DAYBOOK_COMMAND_SERVICE_DECODED_ACCOUNTS": "20",
        "DAYBOOK_COMMAND_SERVICE_HELD_ACCOUNTS": "40",
    }
    return environment(wire.connections, **(names | more))


def test_kills_in_the_middle_of_rounds_and_takeovers_cost_no_event_and_leave_no_wrong_snapshot(
    wire: Wire, start: Callable[..., Process]
) -> None:
    services = [start("command_service", env=snapshotting(wire, n)) for n in (0, 1)]
    for service in services:
        service.said("assigned partitions")
    commands = load([f"K-{n}" for n in range(200)], 1_000, seed=7)
    dice = random.Random(7)
    size = len(commands) // 2

    for begin in range(0, len(commands), size):
        wire.send(*commands[begin : begin + size])
        snapshots = len(read_all(wire.connections, wire.topics.snapshots))
        until(lambda so_far=snapshots: len(read_all(wire.connections, wire.topics.snapshots)) > so_far, "snapshot", 60)
        victim = dice.choice(services)
        victim.kill()
        victim.start()

    until(lambda: len(wire.replies()) >= len(commands), "reply to each command", 90)
    check_every_command_has_one_outcome(wire, commands)
    assert check_snapshots(wire) >= PARTITIONS
    assert all(service.stop() == 0 for service in services), services[0].output + services[1].output


def test_a_round_that_cannot_be_written_is_repeated_until_it_can(wire: Wire, start: Callable[..., Process]) -> None:
    service = start("command_service", env=snapshotting(wire))
    service.said("of partitions [0, 1, 2, 3]")
    with AdminClient(wire.connections.kafka()) as admin:
        # Enough for what ends a transaction, and too little for snapshots.
        configure(admin, wire.topics.snapshots, {"max.message.bytes": "150"})
        wire.send(*(opening(f"R-{n}") for n in range(4 * EVERY + 100)))
        service.said("to be decided again")
        configure(admin, wire.topics.snapshots, {"max.message.bytes": "1048576"})

    until(lambda: len(wire.replies()) == 4 * EVERY + 100, "reply to each command", 90)
    until(lambda: "wrote " in service.output, "finished round", 60)

    assert service.stop() == 0
    assert check_snapshots(wire) >= 1
    assert {len(stream) for stream in wire.events().values()} == {1}
