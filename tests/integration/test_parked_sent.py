"""A parked record is sent again on real servers, and nothing that was decided is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Message

from command_service.records import parked as as_parked
from daybook.decided import AlreadyDecided
from daybook.parked import Parked, read_parked, send_again
from daybook.progress import untold
from schemas.commands import CompleteTransfer, Freeze, ReceiveTransfer, ReturnTransfer
from schemas.connections import Connections
from schemas.events import AccountCreated, TransferCompleted, TransferReturned, TransferSent
from schemas.topics import partition_of
from schemas.transfers import receive_id, return_id
from tests.conftest import PARTITIONS, Ledger
from tests.event_log import Log
from tests.processes import until
from tests.recorded import recorded
from tests.wire import Wire, deposit, make, opening, read_all, transfer


@pytest.fixture
def wire(ledger: Ledger) -> Iterator[Wire]:
    with Wire(ledger.connections, PARTITIONS) as wire:
        yield wire


@pytest.fixture
def account() -> str:
    return f"A-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def other() -> str:
    return f"B-{uuid.uuid4().hex[:12]}"


def park(wire: Wire, message: Message) -> tuple[int, int]:
    """Keep a record as the service does that cannot decide it. Returns its place."""
    kept = as_parked(wire.topics.parked, message, "undecidable", "planted")
    wire.put(kept.value, key=kept.key, partition=0, topic=kept.topic, headers=kept.headers)
    wire.flush()
    (found,) = (m for m in read_all(wire.connections, wire.topics.parked) if m.key() == kept.key)
    return int(found.partition() or 0), int(found.offset() or 0)


def send(connections: Connections, place: tuple[int, int], *, anyway: bool = False) -> Parked:
    return send_again(connections, *place, anyway=anyway, tell=untold, timeout_s=30)


def test_what_a_client_asked_and_was_decided_is_sent_again_only_on_demand(wire: Wire, account: str) -> None:
    paid, late = deposit(account, 5), deposit(account, 6)
    wire.decide(opening(account), paid)
    wire.put_among_follow_ups(paid, late)

    def places() -> dict[bytes | None, tuple[int, int]]:
        found = read_parked(wire.connections, timeout_s=30)
        return {r.value: (r.partition, r.offset) for r in found if r.key == account.encode()}

    found = until(lambda: places() if len(places()) == 2 else {}, "two parked records")
    place = found[wire.codec.encode_command(paid)]
    with pytest.raises(AlreadyDecided, match=rf"event 2 of account {account} \(MoneyDeposited\).*--anyway"):
        send(wire.connections, place)
    assert [r.event_count for r in wire.replies() if r.command_id == paid.command_id] == [1]

    send(wire.connections, place, anyway=True)
    until(lambda: len([r for r in wire.replies() if r.command_id == paid.command_id]) == 2, "the first answer again")
    send(wire.connections, found[wire.codec.encode_command(late)])
    (reply,) = wire.await_replies(late)
    assert reply.sequence == 3


@pytest.mark.parametrize("hindered", [False, True], ids=["taken in", "came back"])
def test_the_follow_ups_of_a_settled_transfer_are_never_sent_again(
    wire: Wire, account: str, other: str, hindered: bool
) -> None:
    wire.decide(opening(account), deposit(account, 100), opening(other))
    if hindered:
        wire.decide(make(Freeze, other))
    sent = transfer(account, other, 40)
    wire.decide(sent)
    end = TransferReturned if hindered else TransferCompleted
    until(lambda: isinstance(wire.events()[account][-1].event, end), "end of the transfer")

    follow_ups = {
        type(command): message
        for message in read_all(wire.connections, wire.topics.followups)
        if getattr(command := wire.codec.decode_command(message.value()), "transfer_id", "") == sent.transfer_id
    }
    assert follow_ups.keys() == {ReceiveTransfer, ReturnTransfer if hindered else CompleteTransfer}
    for kind, message in follow_ups.items():
        place = park(wire, message)
        for anyway in (False, True):
            with pytest.raises(AlreadyDecided) as refusal:
                send(wire.connections, place, anyway=anyway)
            wanted = "settled since" if kind is not ReceiveTransfer else ("back in" if hindered else "is in account")
            assert wanted in str(refusal.value)
            assert "--anyway" not in str(refusal.value)


def test_a_transfer_that_waits_is_given_once_more_and_not_while_it_is_on_its_way_back(deployed: Connections) -> None:
    """Without a command service, so that it goes on waiting."""
    with Wire(deployed, PARTITIONS) as wire:
        sent = TransferSent(
            transfer_id=str(uuid.uuid4()),
            to_account_id="B",
            amount_minor=5,
            currency="EUR",
            balance_minor=-5,
            in_transit_minor=5,
        )
        Log(deployed, chained=True).append(
            [recorded("A", 1, AccountCreated(currency="EUR", holder_name="")), recorded("A", 2, sent)]
        )
        own = {"transfer_id": sent.transfer_id, "causation_id": "the event"}
        receiving = make(
            ReceiveTransfer,
            "B",
            command_id=receive_id(sent.transfer_id, "A", 2),
            from_account_id="A",
            amount_minor=5,
            currency="EUR",
            **own,
        )
        value = wire.codec.encode_command(receiving)
        place = park(wire, Message(topic=wire.topics.followups, partition=1, offset=7, key=b"B", value=value))

        assert send(deployed, place).key == b"B"

        (again,) = read_all(deployed, wire.topics.followups)
        assert (again.key(), again.value(), again.partition()) == (b"B", value, partition_of("B", PARTITIONS))
        returning = make(
            ReturnTransfer,
            "A",
            command_id=return_id(receiving.command_id),
            to_account_id="B",
            code="account_frozen",
            message="account B is frozen",
            **own,
        )
        home = partition_of("A", PARTITIONS)
        wire.put(wire.codec.encode_command(returning), key=b"A", partition=home, topic=wire.topics.followups)
        wire.flush()
        with pytest.raises(AlreadyDecided, match="the money is on its way back"):
            send(deployed, place)
        unknown = Message(topic=wire.topics.followups, partition=1, offset=8, key=b"B", value=b"\0\0\0\3\xe7x")
        with pytest.raises(AlreadyDecided, match="cannot be read here"):
            send(deployed, park(wire, unknown), anyway=True)
