"""Transfers through the real command service: what becomes of the money on both accounts."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition

from command_service.records import was_decided
from schemas.commands import (
    CloseAccount,
    CommandStatus,
    Freeze,
    ReceiveTransfer,
    Transfer,
)
from schemas.connections import Connections
from schemas.events import TransferCompleted, TransferReceived, TransferReturned, TransferSent
from schemas.topics import DECIDED_HEADER, partition_of
from schemas.transfers import complete_id, receive_id, return_id
from tests.conftest import PARTITIONS, Ledger
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.unit.memory_ledger import MemoryLedger
from tests.wire import Wire, deposit, make, opening, read_all, transfer


@pytest.fixture
def wire(ledger: Ledger) -> Iterator[Wire]:
    with Wire(ledger.connections, PARTITIONS) as wire:
        yield wire


@pytest.fixture
def names() -> Iterator[str]:
    """Account ids of the test's own."""
    return (f"{uuid.uuid4().hex[:12]}" for _ in range(1000))


def settled(wire: Wire, *transfers: Transfer) -> None:
    """Wait until each has been completed or returned."""
    wanted = {each.transfer_id for each in transfers}

    def all_settled() -> bool:
        found = {
            recorded.event.transfer_id
            for stream in wire.events().values()
            for recorded in stream
            if isinstance(recorded.event, TransferCompleted | TransferReturned)
        }
        return wanted <= found

    until(all_settled, f"end of {len(wanted)} transfers")


def committed(connections: Connections) -> dict[tuple[str, int], int]:
    """From where on the command service's group reads: of each partition of which it has committed an offset."""
    topics = connections.topics
    places = [TopicPartition(t, p) for t in (topics.commands, topics.followups) for p in range(PARTITIONS)]
    with closing(Consumer(connections.kafka(group_id=topics.command_service_group))) as consumer:
        return {(at.topic, at.partition): at.offset for at in consumer.committed(places, 10) if at.offset >= 0}


def shared_out(services: list[Process]) -> list[set[int]]:
    """The partitions of each service, once all have some and have restored them; else nothing."""
    owned = []
    for service in services:
        assigned = service.output.rpartition("assigned partitions ")[2]
        if "restored " not in assigned:
            return []
        owned.append({int(number) for number in re.findall(r"\d+", assigned.partition("]")[0])})
    return owned if all(owned) and sorted(p for each in owned for p in each) == list(range(PARTITIONS)) else []


def test_money_goes_from_one_account_to_another_and_each_step_says_why(wire: Wire, names: Iterator[str]) -> None:
    source, destination = next(names), next(names)
    wire.decide(opening(source), deposit(source, 10_000), opening(destination))
    sent = transfer(source, destination, 4_000, reason="rent", correlation_id="run-7", user_id="alice")

    (reply,) = wire.decide(sent)
    settled(wire, sent)

    assert (reply.status, reply.sequence, reply.event_count) == (CommandStatus.ACCEPTED, 3, 1)
    streams = wire.events()
    own = {"transfer_id": sent.transfer_id, "amount_minor": 4_000, "currency": "EUR"}
    gone, done = streams[source][2:]
    (come,) = streams[destination][1:]
    assert gone.event == TransferSent(to_account_id=destination, balance_minor=6_000, in_transit_minor=4_000, **own)
    assert come.event == TransferReceived(from_account_id=source, balance_minor=4_000, **own)
    assert done.event == TransferCompleted(to_account_id=destination, in_transit_minor=0, **own)
    for each in (gone, come, done):
        assert (each.user_id, each.reason, each.correlation_id) == ("alice", "rent", "run-7")
    assert gone.causation_id == gone.command_id == sent.command_id
    received = receive_id(sent.transfer_id, source, 3)
    assert (come.command_id, come.causation_id) == (received, gone.event_id)
    assert (done.command_id, done.causation_id) == (complete_id(received), come.event_id)
    # Whoever waits for a transfer's end finds it among the replies.
    answers = {r.command_id: r for r in wire.replies()}
    assert answers[received].accepted


@pytest.mark.parametrize(
    ("hindrance", "code"),
    [
        ("missing", "account_not_found"),
        ("closed", "account_closed"),
        ("frozen", "account_frozen"),
        ("currency", "currency_mismatch"),
    ],
)
def test_money_that_cannot_be_taken_in_comes_back_with_the_reason(
    wire: Wire, names: Iterator[str], hindrance: str, code: str
) -> None:
    source, destination = next(names), next(names)
    before = {
        "missing": [],
        "closed": [opening(destination), make(CloseAccount, destination)],
        "frozen": [opening(destination), make(Freeze, destination)],
        "currency": [opening(destination, currency="JPY")],
    }[hindrance]
    wire.decide(opening(source), deposit(source, 10_000), *before)
    sent = transfer(source, destination, 4_000)

    wire.decide(sent)
    settled(wire, sent)

    returned = wire.events()[source][-1]
    assert isinstance(returned.event, TransferReturned)
    assert (returned.event.code, returned.event.balance_minor, returned.event.in_transit_minor) == (code, 10_000, 0)
    received = receive_id(sent.transfer_id, source, 3)
    assert (returned.command_id, returned.causation_id) == (return_id(received), received)
    answers = {r.command_id: r for r in wire.replies()}
    assert (answers[received].status, answers[received].code) == (CommandStatus.REJECTED, code)


def test_what_was_decided_at_once_is_passed_over_when_it_is_read(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    """And the transaction names the destination's partition, from which nothing was read."""
    log, ledger = Log(deployed, chained=True), MemoryLedger()
    source, home = "A-1", partition_of("A-1", PARTITIONS)
    destination = next(f"B-{n}" for n in range(99) if partition_of(f"B-{n}", PARTITIONS) != home)
    away = partition_of(destination, PARTITIONS)
    for command in (opening(source), deposit(source, 10_000), opening(destination)):
        ledger.decide(command)
    log.append(ledger.log)
    start("command_service", env=environment(deployed))
    topics = deployed.topics
    with Wire(deployed, PARTITIONS) as wire:
        wire.decide(transfer(source, destination, 4_000))

        asked = read_all(deployed, topics.followups)
        assert [(each.partition(), each.headers()) for each in asked] == [
            (away, [(DECIDED_HEADER, b"")]),
            (home, [(DECIDED_HEADER, b"")]),
        ]
        until(lambda: {(topics.followups, away), (topics.followups, home)} <= committed(deployed).keys(), "reading on")
        streams = wire.events()
        assert [type(e.event) for e in streams[source][2:]] == [TransferSent, TransferCompleted]
        assert [type(e.event) for e in streams[destination][1:]] == [TransferReceived]
        assert len(wire.replies()) == 2
    assert committed(deployed)[topics.commands, away] == 0


def test_the_mark_makes_no_follow_up_of_a_clients_command(wire: Wire, names: Iterator[str]) -> None:
    opened = opening(next(names))
    home = partition_of(opened.account_id, PARTITIONS)
    wire.put(wire.codec.encode_command(opened), partition=home, headers=[(DECIDED_HEADER, b"")])
    wire.flush()
    (reply,) = wire.await_replies(opened)
    assert reply.accepted


def test_a_transfer_id_stands_for_one_transfer(wire: Wire, names: Iterator[str]) -> None:
    source, destination = next(names), next(names)
    wire.decide(opening(source), deposit(source, 10_000), opening(destination))
    sent = transfer(source, destination, 1_000)
    again = transfer(source, destination, 1_000, transfer_id=sent.transfer_id)
    other = transfer(source, destination, 1_001, transfer_id=sent.transfer_id)

    replies = wire.decide(sent, again, other)
    settled(wire, sent)
    after = wire.decide(transfer(source, destination, 1_000, transfer_id=sent.transfer_id))

    assert [(r.accepted, r.event_count, r.code) for r in replies] == [
        (True, 1, None),
        (True, 0, None),
        (False, 0, "transfer_id_reused"),
    ]
    assert (after[0].accepted, after[0].event_count) == (True, 0)
    assert len(wire.events()[destination]) == 2


def test_nobody_but_the_service_gives_a_follow_up(wire: Wire, names: Iterator[str]) -> None:
    """Not even one that the service is about to give itself, whose id can be foretold."""
    source, destination = next(names), next(names)
    wire.decide(opening(source), deposit(source, 10_000), opening(destination))
    sent = transfer(source, destination, 4_000)
    foretold = make(
        ReceiveTransfer,
        destination,
        command_id=receive_id(sent.transfer_id, source, 3),
        transfer_id=sent.transfer_id,
        from_account_id=source,
        amount_minor=1_000_000,
        currency="EUR",
        causation_id="forged",
    )
    posing = deposit(destination, 1, command_id=complete_id(foretold.command_id))

    # They go to the commands topic, as all that clients send.
    forged, paid = wire.decide(foretold, posing)
    wire.decide(sent)
    settled(wire, sent)

    assert (forged.status, forged.code) == (CommandStatus.REJECTED, "not_a_client_command")
    assert paid.accepted
    assert [e.event.balance_minor for e in wire.events()[destination][1:]] == [1, 4_001]


def test_a_clients_command_among_the_follow_ups_is_put_aside(wire: Wire, names: Iterator[str]) -> None:
    account = next(names)
    wire.decide(opening(account))
    stray = deposit(account, 5)
    wire.put(
        wire.codec.encode_command(stray),
        key=account.encode(),
        partition=partition_of(account, PARTITIONS),
        topic=wire.topics.followups,
    )
    wire.flush()

    until(lambda: len(wire.parked()), "parked record")
    (parked,) = wire.parked()
    assert dict(parked.headers())["parked-reason"] == b"not_a_follow_up"
    assert [type(e.event).__name__ for e in wire.events()[account]] == ["AccountCreated"]


def test_many_pay_one_and_a_ring_pays_itself_round_at_once(wire: Wire, names: Iterator[str]) -> None:
    ring = [next(names) for _ in range(20)]
    hot = next(names)
    wire.decide(opening(hot), *(c for a in ring for c in (opening(a), deposit(a, 100))))
    payments = [transfer(a, hot, 1) for a in ring for _ in range(20)]
    rounds = [transfer(a, ring[(n + 1) % len(ring)], 50) for n, a in enumerate(ring)]

    wire.send(*(each for pair in zip(payments, rounds * 20, strict=True) for each in pair))
    settled(wire, *payments, *rounds)

    streams = wire.events()
    assert sum(isinstance(e.event, TransferReceived) for e in streams[hot]) == 400
    assert streams[hot][-1].event.balance_minor == 400
    assert {
        streams[a][-1].event.in_transit_minor for a in ring if hasattr(streams[a][-1].event, "in_transit_minor")
    } <= {0}
    balances = {a: [e.event.balance_minor for e in streams[a] if hasattr(e.event, "balance_minor")][-1] for a in ring}
    assert set(balances.values()) == {80}


def test_thousands_pay_one_and_a_ring_pays_itself_round_between_two_services(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    """Half of what is asked for is asked of the other service, both ways and of the same accounts at once."""
    env = (environment(deployed, DAYBOOK_COMMAND_SERVICE_INSTANCE=str(instance)) for instance in (1, 2))
    services = [start("command_service", env=each) for each in env]
    owned = until(lambda: shared_out(services), "partitions for both services")
    accounts = [f"R-{number}" for number in range(1000)]
    of_each = [[a for a in accounts if partition_of(a, PARTITIONS) in partitions][:10] for partitions in owned]
    ring = [account for pair in zip(*of_each, strict=True) for account in pair]
    senders = [f"P-{number}" for number in range(2_000)]
    with Wire(deployed, PARTITIONS) as wire:
        wire.decide(opening("hot"), *(c for a in (*senders, *ring) for c in (opening(a), deposit(a, 100))))
        payments = [transfer(a, "hot", 1) for a in senders]
        rounds = [transfer(a, ring[(n + 1) % len(ring)], 10) for _ in range(10) for n, a in enumerate(ring)]
        wire.send(*(each for n, paid in enumerate(payments) for each in (paid, *rounds[n : n + 1])))
        settled(wire, *payments, *rounds)

        streams = wire.events()
        assert shared_out(services) == owned, "another assignment: nothing would be shown"
        read = {m.partition() for m in read_all(deployed, deployed.topics.followups) if not was_decided(m)}
        assert all(read & partitions for partitions in owned)
    assert streams["hot"][-1].event.balance_minor == len(senders)
    assert {streams[a][-1].event.in_transit_minor for a in senders} == {0}
    balances = [[e.event.balance_minor for e in streams[a] if hasattr(e.event, "balance_minor")][-1] for a in ring]
    assert set(balances) == {100}


def test_it_takes_nothing_while_the_partitions_of_the_two_topics_are_not_together(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    """As beside an instance of a release that reads the commands alone."""
    earlier = Consumer(
        deployed.kafka(
            group_id=deployed.topics.command_service_group,
            partition_assignment_strategy="range",
            session_timeout_ms=6_000,
            auto_offset_reset="earliest",
        )
    )
    with Wire(deployed, PARTITIONS) as wire:
        with closing(earlier):
            earlier.subscribe([deployed.topics.commands])
            service = start("command_service", env=environment(deployed))
            warning = "an instance of an earlier release"
            until(lambda: earlier.poll(0.1) is None and warning in service.output, "warning")
            until(lambda: earlier.poll(0.1) is None and 0 < len(earlier.assignment()) < PARTITIONS, "shared commands")
            theirs = {place.partition for place in earlier.assignment()}
            # The group gave the service the commands of every other partition, and follow-ups of all of them.
            accounts = (f"A-{number}" for number in range(1000))
            opened = opening(next(name for name in accounts if partition_of(name, PARTITIONS) not in theirs))
            wire.send(opened)
            # Restoring an empty ledger and deciding take a fraction of these two seconds.
            for _ in range(10):
                assert earlier.poll(0.2) is None
                assert wire.replies() == []
            assert {place.partition for place in earlier.assignment()} == theirs
        (reply,) = wire.await_replies(opened)
        assert reply.accepted
        assert not read_all(deployed, deployed.topics.parked)
