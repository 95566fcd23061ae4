"""Parked records on real servers: one account's are erased, and the others' stay and can be sent again."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka.admin import AdminClient

from daybook.client import Client
from daybook.erasure.places import Place, State
from daybook.erasure.run import Erasure
from daybook.erasure.texts import Texts
from daybook.parked import NotParked, read_parked, send_again
from daybook.progress import untold
from deploy.definitions import apply
from schemas.connections import Connections
from schemas.events import AccountCreated, HolderErased
from tests.conftest import PARTITIONS, Ledger
from tests.event_log import Log
from tests.processes import environment, until
from tests.recorded import recorded
from tests.wire import Wire, configure, deposit, opening, read_all

_QUICK = {"segment.ms": "1000", "max.compaction.lag.ms": "1000", "file.delete.delay.ms": "1000"}


@pytest.fixture
def wire(ledger: Ledger) -> Iterator[Wire]:
    with Wire(ledger.connections, PARTITIONS) as wire:
        yield wire


@dataclass(frozen=True)
class Names:
    """Of two accounts that no other test knows; and of the one's holder."""

    erased: str
    other: str
    holder: str


@pytest.fixture
def names() -> Names:
    mark = uuid.uuid4().hex[:12]
    return Names(f"A-{mark}", f"B-{mark}", f"Wilhelmine Ohnesorg{mark}")


def without_models(connections: Connections) -> Connections:
    """A ledger of which only Kafka is looked through."""
    none = {"elasticsearch_url": None, "redis_url": None, "iceberg_catalog": None, "iceberg_warehouse": None}
    return connections.model_copy(update=none)


def test_one_holders_parked_records_are_erased_and_all_others_stay(wire: Wire, names: Names) -> None:
    connections, topic = wire.connections, wire.topics.parked
    with AdminClient(connections.kafka()) as admin:
        configure(admin, topic, _QUICK)
    wire.decide(*(opening(name, holder_name="Ada") for name in (names.erased, names.other)))
    mine, theirs = names.erased.encode(), names.other.encode()
    personal = opening(names.erased, holder_name=names.holder)
    harmless, paid = deposit(names.erased, 5), deposit(names.other, 7)
    # All in one partition of commands, so that deleting more than one record at once would show.
    for value, key in (
        (b"not avro", theirs),
        (f"not avro, {names.holder}".encode(), mine),
        (f"of nobody, {names.holder}".encode(), None),
        (f"of somebody else, {names.holder}".encode(), theirs),
        (None, theirs),
        (b"of nobody", None),
    ):
        wire.put(value, key=key, partition=0)
    wire.put_among_follow_ups(personal, harmless, paid)
    before = until(lambda: found if len(found := list(read_parked(connections, timeout_s=30))) == 9 else [], "9 parked")
    kept = [
        *((theirs, b"not avro"), (theirs, f"of somebody else, {names.holder}".encode()), (theirs, None)),
        *((None, b"of nobody"), (mine, wire.codec.encode_command(harmless)), (theirs, wire.codec.encode_command(paid))),
    ]
    with Client(connections, user_id="ada", timeout_s=60) as client:
        client.erase_holder(names.erased)

    with Erasure(without_models(connections), names.erased, Texts([names.holder]), timeout_s=30) as erasure:

        def place() -> Place:
            (found,) = (one for one in erasure.look(untold).places if one.name == f"topic {topic}")
            return found

        first = place()
        assert (first.state, first.detail.count(" at ")) == (State.PENDING, 3)
        # At once nobody reads them any more.
        left = list(read_parked(connections, timeout_s=30))
        assert sorted(((r.key, r.value) for r in left), key=str) == sorted(kept, key=str)
        (gone, *_) = (r for r in before if r.value == f"not avro, {names.holder}".encode())
        with pytest.raises(NotParked, match="was erased"):
            send_again(connections, gone.partition, gone.offset, anyway=False, tell=untold, timeout_s=30)
        until(lambda: " at " not in place().detail, "end of it on the topic", every_s=0.3)

    standing = [m for m in read_all(connections, topic, isolation="read_uncommitted") if m.value() is not None]
    assert len(standing) == len(kept), "the others stand on the topic, and nothing of the holder does"
    assert list(read_parked(connections, timeout_s=30)) == left
    # What is left can be given again, as it came.
    (again,) = (r for r in left if r.value == wire.codec.encode_command(paid))
    send_again(connections, again.partition, again.offset, anyway=False, tell=untold, timeout_s=30)
    (reply,) = wire.await_replies(paid)
    assert (reply.accepted, reply.sequence) == (True, 2)
    (stray,) = (m for m in read_all(connections, wire.topics.commands) if m.value() == again.value)
    assert stray.key() == theirs


def test_whoever_is_asked_is_told_how_many_parked_records_go(wire: Wire, names: Names) -> None:
    wire.decide(opening(names.erased, holder_name=names.holder))
    for value, account_id in ((f"not avro, {names.holder}", names.erased), ("not avro", names.other)):
        wire.put(value.encode(), key=account_id.encode())
    wire.flush()
    keys = {names.erased.encode(), names.other.encode()}
    until(lambda: keys <= {r.key for r in read_parked(wire.connections, timeout_s=30)}, "parked records")

    us, program = pty.openpty()
    os.write(us, b"n\n")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "daybook", "erase", names.erased],
        env=environment(wire.connections),
        stdin=program,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(us)
    os.close(program)

    assert ended.returncode == 1, ended.stderr
    assert f"holder: {names.holder}" in ended.stderr
    assert "parked records that go with the holder, and are never decided: 1" in ended.stderr


def test_what_an_earlier_release_parked_is_erased_once_the_topic_is_brought_up_to_date(deployed: Connections) -> None:
    topic = deployed.topics.parked
    with AdminClient(deployed.kafka()) as admin:
        configure(admin, topic, {"cleanup.policy": "delete", "segment.ms": "1000"})
    noted = {"parked-reason": b"undecodable", "parked-topic": b"t", "parked-partition": b"0", "parked-offset": b"7"}
    name = "Wilhelmine Ohnesorg"
    Log(deployed).append(
        [recorded("A", 1, AccountCreated(currency="EUR", holder_name="")), recorded("A", 2, HolderErased())]
    )
    with Wire(deployed, PARTITIONS) as wire:
        for value, key in ((f"{name} 1", b"A"), (f"{name} 2", None), ("not avro", b"B"), (f"{name} 3", b"A")):
            wire.put(value.encode(), key=key, topic=topic, headers=noted)
        wire.flush()
    listed = [(r.key, r.value) for r in read_parked(deployed, timeout_s=30)]
    assert listed[2:] == [(b"B", b"not avro"), (b"A", f"{name} 3".encode())]

    def place() -> Place:
        with Erasure(without_models(deployed), "A", Texts([name]), timeout_s=30) as erasure:
            (found,) = (one for one in erasure.look(untold).places if one.name == f"topic {topic}")
            return found

    first = place()
    assert (first.state, "`daybook deploy apply`" in first.detail) == (State.PENDING, True)
    assert [(r.key, r.value) for r in read_parked(deployed, timeout_s=30)] == listed
    apply(deployed, partitions=PARTITIONS)
    with AdminClient(deployed.kafka()) as admin:
        configure(admin, topic, _QUICK)
    until(lambda: " at " not in place().detail, "end of it on the topic", every_s=0.3)
    assert [(r.key, r.value) for r in read_parked(deployed, timeout_s=30)] == [(b"B", b"not avro")]
