"""What is taken of commands and follow-ups, and how far those that were decided already are passed over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from command_service import assignment
from command_service.assignment import Assignment, Taken
from command_service.settings import Settings
from command_service.vitals import Vitals
from schemas.connections import Connections
from schemas.keyring import KeyRing
from schemas.topics import DECIDED_HEADER
from tests.conftest import PARTITIONS
from tests.processes import until
from tests.wire import Wire

MARKED = [(DECIDED_HEADER, b"")]


@pytest.fixture
def wire(deployed: Connections) -> Iterator[Wire]:
    with Wire(deployed, PARTITIONS) as wire:
        yield wire


@pytest.fixture
def taking(wire: Wire) -> Iterator[Assignment]:
    """An assignment that has all partitions."""
    stopping, vitals = threading.Event(), Vitals()
    taking = Assignment(wire.connections, Settings(), wire.codec, KeyRing.of(wire.connections), stopping, vitals)
    with closing(taking):
        taking.subscribe()

        def restored() -> bool:
            if taking.restored:
                taking.take(1, wait=False)
            else:
                taking.restore()
            return len(taking.states) == PARTITIONS

        until(restored, "all partitions")
        yield taking


def put(wire: Wire, *values: bytes, marked: bool) -> None:
    """Put follow-ups on the first partition. Nobody decides them here, so they may be anything."""
    for value in values:
        wire.put(value, topic=wire.topics.followups, headers=MARKED if marked else None)
    wire.flush()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits long enough for a record that nothing is told since nothing came."""
    monkeypatch.setattr(assignment, "_IDLE_WAIT_S", 30.0)


@pytest.mark.usefixtures("patient")
def test_what_was_decided_is_told_with_the_next_record(wire: Wire, taking: Assignment) -> None:
    place = wire.topics.followups, 0
    put(wire, b"a", b"b", marked=True)
    put(wire, b"c", marked=False)
    found = record_of(taking)
    assert [(at, offset, record.value()) for at, offset, record in found.records] == [(place, 2, b"c")]
    assert found.passed == {place: 2}
    assert found.offsets(1) == {place: 3}
    # Once: should the transaction be aborted, they are read again.
    assert taking.take(100, wait=False).passed == {}
    taking.rewind()
    assert record_of(taking).passed == {place: 2}


def test_without_a_record_it_is_told_when_nothing_comes(wire: Wire, taking: Assignment) -> None:
    put(wire, b"a", b"b", marked=True)
    told: list[Taken] = []
    until(lambda: told.append(taking.take(100)) or told[-1].passed, "word of what was passed over")
    assert (told[-1].records, told[-1].passed) == ([], {(wire.topics.followups, 0): 2})
    assert taking.take(100, wait=False).passed == {}


@pytest.mark.usefixtures("patient")
def test_or_when_they_are_many(wire: Wire, taking: Assignment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "_PASSED_OVER", 2)
    put(wire, b"a", b"b", marked=True)
    assert [taking.take(1).passed for _ in range(2)] == [{}, {(wire.topics.followups, 0): 2}]


@pytest.mark.usefixtures("patient")
def test_what_was_passed_over_of_partitions_that_are_gone_is_forgotten(wire: Wire, taking: Assignment) -> None:
    put(wire, b"a", marked=True)
    assert taking.take(1).passed == {}
    taking.give_back()
    assert taking.take(100, wait=False).passed == {}


def record_of(taking: Assignment) -> Taken:
    """The first that is taken with a record, after at most two that were passed over."""
    return next(each for each in (taking.take(100) for _ in range(3)) if each.records)
