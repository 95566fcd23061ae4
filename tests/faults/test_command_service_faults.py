"""What the command service does when processes, servers and the log itself fail."""

from __future__ import annotations

import random
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.stack.stack import Stack
from schemas.connections import Connections
from schemas.topics import FINGERPRINT_HEADER, event_key, partition_of
from tests.conftest import PARTITIONS
from tests.processes import Process, environment, until
from tests.wire import Wire, configure, deposit, opening, put_with_raw_header, read_all, transfer, withdrawal

pytestmark = pytest.mark.faults


@pytest.fixture
def wire(deployed: Connections) -> Iterator[Wire]:
    with Wire(deployed, PARTITIONS) as wire:
        yield wire


def check_every_command_has_one_outcome(wire: Wire, sent: list[object]) -> None:
    """Each command has exactly one reply and at most one event, sequences are gapless, and sums are exact."""
    replies = wire.replies()
    assert sorted(r.command_id for r in replies) == sorted(command.command_id for command in sent)
    accepted = {r.command_id: r.sequence for r in replies if r.accepted}
    streams = wire.events()
    recorded = {e.command_id: e.sequence for stream in streams.values() for e in stream}
    assert recorded == accepted
    amounts = {command.command_id: command for command in sent}
    for stream in streams.values():
        assert [e.sequence for e in stream] == list(range(1, len(stream) + 1))
        balance = 0
        for e in stream[1:]:
            command = amounts[e.command_id]
            balance += command.amount_minor if type(command).__name__ == "Deposit" else -command.amount_minor
            assert e.event.balance_minor == balance


def load(accounts: list[str], count: int, seed: int) -> list[object]:
    dice = random.Random(seed)
    commands: list[object] = [opening(a, overdraft_limit_minor=1_000) for a in accounts]
    for _ in range(count):
        kind = deposit if dice.random() < 0.5 else withdrawal
        commands.append(kind(dice.choice(accounts), dice.randrange(1, 2_000)))
    return commands


def test_two_services_share_the_partitions_and_take_over_from_each_other(
    wire: Wire, start: Callable[..., Process]
) -> None:
    first, second = (
        start("command_service", env=environment(wire.connections, DAYBOOK_COMMAND_SERVICE_INSTANCE=str(n)))
        for n in (0, 1)
    )
    first.said("restored ")
    second.said("restored ")
    accounts = [f"T-{n}" for n in range(40)]
    commands = load(accounts, 6_000, seed=1)
    cuts = [0, 1_500, 3_000, 4_500, len(commands)]

    wire.send(*commands[: cuts[1]])
    first.kill()
    wire.send(*commands[cuts[1] : cuts[2]])
    first.start()
    wire.send(*commands[cuts[2] : cuts[3]])
    second.stop()
    wire.send(*commands[cuts[3] :])

    until(lambda: len(wire.replies()) >= len(commands), "reply to each command", 90)
    check_every_command_has_one_outcome(wire, commands)


def test_a_second_process_under_the_same_instance_fences_the_first_which_says_so_or_goes_on(
    wire: Wire, start: Callable[..., Process]
) -> None:
    """What the operator gets for giving two processes one ordinal: never a doubled event."""
    services = [start("command_service", env=environment(wire.connections)) for _ in range(2)]
    for service in services:
        service.said("assigned partitions")
    commands = load([f"F-{n}" for n in range(20)], 2_000, seed=2)

    for begin in range(0, len(commands), 200):
        wire.send(*commands[begin : begin + 200])
        for service in services:
            if not service.running():
                service.start()

    def answered() -> bool:
        for service in services:
            if not service.running():
                assert "DAYBOOK_COMMAND_SERVICE_INSTANCE" in service.output
                service.start()
        return len(wire.replies()) >= len(commands)

    until(answered, "reply to each command", 180)
    check_every_command_has_one_outcome(wire, commands)


def test_a_restore_waits_for_a_dead_owners_transaction(wire: Wire, start: Callable[..., Process]) -> None:
    """The dead owner's events are in the log, its transaction is open: neither counted nor written over."""
    service = start("command_service", env=environment(wire.connections))
    account = "H-1"
    wire.decide(opening(account), deposit(account, 100))
    service.stop()
    home = partition_of(account, PARTITIONS)
    dead = Producer(wire.connections.kafka(transactional_id=f"dead-{uuid.uuid4().hex}", transaction_timeout_ms=8_000))
    dead.init_transactions(30)
    dead.begin_transaction()
    dead.produce(wire.topics.events, b"never committed", event_key(account, 3), home)
    dead.flush(30)
    del dead  # As a crash leaves it: open, until the broker times it out.
    paid = deposit(account, 50)
    wire.send(paid)

    service.start()

    (reply,) = wire.await_replies(paid, timeout_s=60)
    assert reply.sequence == 3
    assert wire.events()[account][-1].event.balance_minor == 150
    stray = read_all(wire.connections, wire.topics.events, isolation="read_uncommitted")
    assert [m.key() for m in stray if m.value() == b"never committed"] == [event_key(account, 3)]


@pytest.mark.parametrize("damage", ["gap", "repeat", "chain", "garbage", "key"])
def test_a_damaged_log_stops_it_and_is_named(wire: Wire, start: Callable[..., Process], damage: str) -> None:
    service = start("command_service", env=environment(wire.connections))
    account = "D-1"
    wire.decide(opening(account), deposit(account, 100), deposit(account, 200))
    assert service.stop() == 0
    home = partition_of(account, PARTITIONS)
    last = read_all(wire.connections, wire.topics.events)[-1]
    keys = {
        "gap": event_key(account, 5),
        "repeat": event_key(account, 3),
        "chain": event_key(account, 4),
        "garbage": event_key(account, 4),
        "key": b"no slash",
    }
    value = b"garbage" if damage == "garbage" else last.value()
    producer = Producer(wire.connections.kafka())
    producer.produce(wire.topics.events, value, keys[damage], home)
    assert producer.flush(30) == 0

    service.start()

    assert service.wait() == 1
    # Behind the three events and their transactions' ends.
    (damaged,) = [m for m in read_all(wire.connections, wire.topics.events) if m.offset() > last.offset()]
    assert f"{wire.topics.events} partition {home} offset {damaged.offset()}" in service.output
    if damage in ("gap", "repeat"):
        assert account in service.output


def test_a_registry_that_is_down_is_waited_for_and_parks_nothing(
    wire: Wire, start: Callable[..., Process], stack: Stack
) -> None:
    service = start("command_service", env=environment(wire.connections))
    account = "R-1"
    wire.decide(opening(account))
    unknown = b"\x00\x00\xff\xff\xff" + wire.codec.encode_command(deposit(account, 1))[5:]
    known = deposit(account, 2)
    stack.kill("registry")
    try:
        wire.put(unknown, key=account.encode(), partition=partition_of(account, PARTITIONS))
        wire.send(known)
        service.said("waiting for the registry", times=3)
        assert wire.parked() == []
        assert len(read_all(wire.connections, wire.topics.events)) == 1
    finally:
        stack.start("registry")

    assert wire.await_replies(known)[0].accepted
    (parked,) = wire.parked()
    assert (parked.value(), dict(parked.headers())["parked-reason"]) == (unknown, b"unknown_schema")


def test_it_starts_once_the_registry_does(wire: Wire, start: Callable[..., Process], stack: Stack) -> None:
    stack.kill("registry")
    try:
        service = start("command_service", env=environment(wire.connections))
        service.said("waiting for the registry")
        assert service.running()
    finally:
        stack.start("registry")

    assert wire.decide(opening("S-1"))[0].accepted


@pytest.mark.parametrize("under_load", [True, False])
def test_a_broker_that_restarts_costs_nothing_but_time(
    wire: Wire, start: Callable[..., Process], stack: Stack, under_load: bool
) -> None:
    """Also when the service has nothing to do meanwhile: then librdkafka remembers a coordinator that is gone."""
    service = start("command_service", env=environment(wire.connections))
    commands = load([f"B-{n}" for n in range(20)], 3_000, seed=3)
    wire.send(*commands[:1_500])
    if under_load:
        wire.await_replies(commands[0])
        stack.kill("kafka-1")
    else:
        wire.await_replies(*commands[:1_500])
        stack.stop("kafka-1")
    stack.start("kafka-1")
    wire.send(*commands[1_500:])

    def answered() -> bool:
        if not service.running():
            assert "stopped: " in service.output
            service.start()
        return len(wire.replies()) >= len(commands)

    until(answered, "reply to each command", 150)
    check_every_command_has_one_outcome(wire, commands)


def test_commands_that_retention_removed_unread_are_counted_and_told(wire: Wire, start: Callable[..., Process]) -> None:
    service = start("command_service", env=environment(wire.connections))
    account = "E-1"
    wire.decide(opening(account))
    service.stop()
    home = partition_of(account, PARTITIONS)
    wire.send(*[deposit(account, 1) for _ in range(3)])
    with AdminClient(wire.connections.kafka()) as admin:
        for answer in admin.delete_records([TopicPartition(wire.topics.commands, home, 3)]).values():
            answer.result()

    service.start()

    assert wire.decide(deposit(account, 1))[0].accepted
    service.said("removed by retention before they were read")


@pytest.mark.parametrize("transfers", [0, 3_000])
def test_a_command_whose_outcome_cannot_be_written_is_named_and_those_before_it_are_done(
    wire: Wire, start: Callable[..., Process], transfers: int
) -> None:
    """Here a parked topic that takes only small records, against what is deployed: a permanent cause of aborts.

    With transfers behind it, in one batch with it, the brokers refuse it while the service decides what these lead to,
    or while the transaction is being committed. Then what is not delivered is not waited for.
    """
    service = start("command_service", env=environment(wire.connections))
    account, small = "W-1", {"max.message.bytes": "300"}
    service.said("restored ")
    with AdminClient(wire.connections.kafka()) as admin:
        configure(admin, wire.topics.parked, small)
    home = partition_of(account, PARTITIONS)
    others = [f"W-{n}" for n in range(2, 20)]
    wire.decide(opening(account, overdraft_limit_minor=transfers), *map(opening, others))
    before = [deposit(account, 1) for _ in range(20)]
    service.send(signal.SIGSTOP)
    wire.send(*before)
    wire.put(b"rubbish" * 100, key=account.encode(), partition=home)
    wire.send(*(transfer(account, others[n % len(others)], 1) for n in range(transfers)))
    service.send(signal.SIGCONT)

    assert service.wait(90) == 1

    aborted = re.findall(r"^(\S+ \S+) WARNING \S+ aborted ", service.output, re.MULTILINE)
    gaps = [later - earlier for earlier, later in pairwise(map(datetime.fromisoformat, aborted))]
    # Between two attempts it waits for two seconds at most.
    assert max(gaps) < timedelta(seconds=8)
    offset = [m.offset() for m in read_all(wire.connections, wire.topics.commands) if m.value()[:7] == b"rubbish"]
    assert f"{wire.topics.commands} partition {home} offset {offset[0]}: what this command leads to" in service.output
    assert all(reply.accepted for reply in wire.await_replies(*before))


def test_a_committed_offset_beyond_the_logs_end_is_told_and_nothing_is_passed_over(
    wire: Wire, start: Callable[..., Process]
) -> None:
    service = start("command_service", env=environment(wire.connections))
    account = "O-1"
    wire.decide(opening(account))
    service.stop()
    home = partition_of(account, PARTITIONS)
    moved = [TopicPartition(wire.topics.commands, home, 1_000)]
    with AdminClient(wire.connections.kafka()) as admin:
        group = ConsumerGroupTopicPartitions(wire.topics.command_service_group, moved)
        for answer in admin.alter_consumer_group_offsets([group]).values():
            answer.result()

    service.start()

    assert service.wait() == 1
    assert f"partition {home}: offset 1000 is committed, but the log ends at 1." in service.output


def test_what_is_not_a_reply_on_the_replies_topic_does_not_stop_a_restore(
    wire: Wire, start: Callable[..., Process]
) -> None:
    service = start("command_service", env=environment(wire.connections))
    account = "J-1"
    paid = deposit(account, 5)
    wire.decide(opening(account), paid)
    service.stop()
    producer = Producer(wire.connections.kafka())
    value = read_all(wire.connections, wire.topics.replies)[0].value()
    producer.produce(wire.topics.replies, value, b"not a UUID", 0, headers=[(FINGERPRINT_HEADER, b"12345678")])
    assert producer.flush(30) == 0
    put_with_raw_header(wire.connections, wire.topics.replies, 0, value, b"\xff")

    service.start()
    wire.send(paid)

    (reply,) = wire.decide(deposit(account, 7))
    assert reply.sequence == 3
    service.said("which is no reply")
